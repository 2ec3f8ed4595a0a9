"""python -m mupcheck."""

from mupcheck.cli.app import main

main()
