"""python -m mupcheck."""

from mupcheck.cli.app import main

if __name__ == "__main__":
    main()
