"""In which style figures are drawn and in which formats they are written; the same figure gives the same bytes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mupcheck.plots.canvas import PNG_DPI, STYLES
from mupcheck.results.printing import said

PNG_COMPRESSION = 3  # of zlib's 9: higher levels take longer than the drawing
PAPER_DPI = 300  # a paper's figures are small, and are looked at enlarged
DEFAULTS = {"page": ("png", "svg"), "paper": ("pdf", "png")}


def check_style(style: str) -> str:
    """Return the style.

    Raises:
        ValueError: if there is none of that name.
    """
    if not isinstance(style, str) or style not in STYLES:
        raise ValueError(f"{said(style)} is no style of figures; styles are {', '.join(STYLES)}")
    return style


def read_formats(given: str | Sequence[str] | None, style: str) -> tuple[str, ...]:
    """Return the formats that were asked for, each once: those of the style where nothing is said.

    Args:
        given: names, a list or parted by commas.
        style: of STYLES.

    Raises:
        ValueError: if a name is of no format, or there is none.
    """
    if given is None:
        return DEFAULTS[style]
    names = [name.strip() for name in (given.split(",") if isinstance(given, str) else given)]
    for name in names or [""]:
        if name not in WRITERS:
            raise ValueError(f"{name!r} is no format of figures; formats are {', '.join(WRITERS)}, such as png,pdf")
    return tuple(dict.fromkeys(names))


def save(figure: Figure, folder: Path, stem: str, formats: Sequence[str]) -> list[Path]:
    """Write a figure as `stem`.<format> for each of the formats, and return the files.

    Raises:
        OSError: if a file cannot be written.
    """
    paths = [folder / f"{stem}.{name}" for name in formats]
    for name, path in zip(formats, paths, strict=True):
        WRITERS[name](figure, path)
    return paths


def _save_png(figure: Figure, path: Path) -> None:
    dpi = PAPER_DPI if getattr(figure, "style", "page") == "paper" else PNG_DPI
    figure.savefig(path, dpi=dpi, pil_kwargs={"compress_level": PNG_COMPRESSION})


def _save_vectors(figure: Figure, path: Path) -> None:
    undated: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
    figure.savefig(path, metadata=undated)


WRITERS: dict[str, Callable[[Figure, Path], None]] = {"png": _save_png, "svg": _save_vectors, "pdf": _save_vectors}
