"""Renew what README.md quotes, and its picture, by running its commands: `make readme`, some minutes on two cores.

Lines are replaced, none is added: where a page has a new line that should be quoted, or "..." should move, write it
into README.md first, roughly as it will be, and run this again. What cannot be found any more is left out, and said.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from quoted import PICTURE, PICTURE_KEY, PICTURED, README, ROOT, Quote, blocks, quotes, renewed


def run(quote: Quote, folder: Path) -> str:
    """Return what a command of the README prints, run as typed."""
    command = [sys.executable, "-m", *shlex.split(quote.command)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, timeout=3600)
    if done.returncode not in (quote.exit_code, 3):
        raise SystemExit(f"{quote.command}: exit code {done.returncode}, the README says {quote.exit_code}")
    return done.stdout


def write_picture(drawn: Path, page: str) -> None:
    """Put a figure where the README shows it, with the page of the same run in its text."""
    with Image.open(drawn) as image:
        info = PngInfo()
        info.add_itxt(PICTURE_KEY, page)
        image.save(PICTURE, pnginfo=info, dpi=image.info.get("dpi"), optimize=True)


def main() -> None:
    """Run every mupcheck command of the README in a clean folder, in order, and write down what it says now."""
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "sweeps", folder / "sweeps")
        (folder / "my_rules.toml").write_text(blocks("toml")[0])
        page = ""
        for quote in quotes():
            if not quote.command.startswith("mupcheck "):
                continue
            print("$", quote.command, file=sys.stderr, flush=True)
            output = run(quote, folder)
            if quote.verb == "lr-sweep":
                page = output
            if quote.verb == "plot":
                write_picture(folder / "results" / "lr" / "figures" / PICTURED, page)
            if not quote.shown:
                continue
            now = renewed(quote, output)
            lost = len(quote.lines) - len(now)
            if lost > 0 and not quote.whole:
                print(f"  {lost} quoted lines are not printed any more, and left out", file=sys.stderr)
            typed = re.search(rf"^\$ {re.escape(quote.command)}(?: +#.*)?\n", text, re.MULTILINE)
            assert typed
            start = typed.end()
            end = min(at for mark in ("\n$ ", "\n```") if (at := text.find(mark, start - 1)) >= 0) + 1
            text = text[:start] + "".join(f"{line}\n" for line in now) + text[end:]
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
