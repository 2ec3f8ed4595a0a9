"""python -m mupcheck."""

from mupcheck.cli import main

main()
