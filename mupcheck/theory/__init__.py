"""What is true of a table of exponents: THE table, what is required, what a table implies."""
