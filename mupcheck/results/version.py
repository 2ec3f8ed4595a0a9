"""Which mupcheck this is, as the command line, `doctor` and every sweep's file say it."""

from importlib import metadata

UNKNOWN = "0+unknown"


def version() -> str:
    """Return the version that was installed, UNKNOWN where the package runs from a folder that nobody installed."""
    try:
        return metadata.version("mupcheck")
    except metadata.PackageNotFoundError:
        return UNKNOWN
