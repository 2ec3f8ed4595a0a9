"""Pictures for the README from results at real widths, and one of their page: `make figures`.

    python sweeps/gallery.py results/kept

writes gallery_adamw.png, gallery_sgd.png and gallery_page.png beside this file, each below 150 KB. The page is taken
with Chromium; where there is none its picture stays as it is.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
SWEEPS = {"adamw": "paper_small_adamw_no_decay", "sgd": "paper_small_sgd"}
MOST_BYTES = 150_000
WINDOW, PICTURED = (1280, 1000), 960  # pixels: of the browser, and of what is kept of its width


def main(kept: Path) -> None:
    """Write the pictures of the results kept under a folder, which are plotted."""
    for name, sweep in SWEEPS.items():
        with Image.open(kept / sweep / "figures" / "loss_vs_lr.png") as image:
            _save(image, HERE / f"gallery_{name}.png")
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium here; gallery_page.png stays as it is", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page, shot = folder / "report.html", folder / "page.png"
        mupcheck = [sys.executable, "-m", "mupcheck", "report", str(kept / SWEEPS["adamw"]), "--out", str(page)]
        subprocess.run(mupcheck, check=True, stdout=subprocess.DEVNULL)
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
        flags += [f"--window-size={WINDOW[0]},{WINDOW[1]}", "--virtual-time-budget=20000", f"--screenshot={shot}"]
        said = subprocess.run([chromium, *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
        if not shot.exists():
            raise SystemExit(f"chromium took no picture: {said.stderr[-500:]}")
        with Image.open(shot) as image:
            _save(image.resize((PICTURED, PICTURED * image.height // image.width), Image.Resampling.LANCZOS),
                  HERE / "gallery_page.png")  # fmt: skip


def _save(image: Image.Image, file: Path) -> None:
    """Save a picture in at most 256 colours.

    Raises:
        SystemExit: if that is larger than a picture in the repository may be.
    """
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    if (size := file.stat().st_size) >= MOST_BYTES:
        raise SystemExit(f"{file} has {size:,} bytes, at most {MOST_BYTES:,} are kept; make it smaller")
    print(f"{file}: {size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
