"""The table of figures, and the scripts that fill it."""

import importlib
import subprocess
import sys
from pathlib import Path

from lines import Line, as_table

HERE = Path(__file__).parent
MAIN = (HERE / "__main__.py").read_text(encoding="utf-8")


def test_the_table_marks_what_falls_short():
    table = as_table([Line("a", "at most 1", "0.5", True), Line("a longer one", "at most 1", "2", False)])
    said = table.splitlines()
    assert said[0].split() == ["line", "asked", "measured"]
    assert said[2].endswith("0.5") and said[3].endswith("2   SHORT")
    assert said[2].index("at most") == said[3].index("at most")


def test_every_script_is_run_by_make_faults():
    files = [file for file in HERE.glob("*.py") if not file.stem.startswith("test_")]
    scripts = {file.stem for file in files if "\ndef measure(" in file.read_text(encoding="utf-8")}
    assert scripts == {name for name in scripts if f'"{name}"' in MAIN}
    assert all(callable(importlib.import_module(name).measure) for name in scripts)
    done = subprocess.run([sys.executable, str(HERE), "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "unknown: nonsense; known: kills," in done.stderr
