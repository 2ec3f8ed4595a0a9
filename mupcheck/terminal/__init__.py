"""What a person sees in a terminal: the console, progress, and one page an answer."""
