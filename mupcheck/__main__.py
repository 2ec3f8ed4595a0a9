"""python -m mupcheck."""

from mupcheck.cli.sweeps import main

main()
