"""Commands: read options, call one function, print its answer."""
