"""Import matplotlib whatever MPLBACKEND names: a figure needs none, and a notebook's may not be installed here."""

import os
import sys
from contextlib import suppress

if "matplotlib" not in sys.modules:
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:
        with suppress(ValueError):  # it is what matplotlib does itself when it is imported, and there ends a program
            mpl.rcParams["backend"] = named
