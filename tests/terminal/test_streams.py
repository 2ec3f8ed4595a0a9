"""Streams that take only ASCII, are closed, full, or whose reader leaves: one line or none, and the right exit code."""

import json
import os
import subprocess
import sys

import pytest

from mupcheck.cli import exits
from mupcheck.terminal.streams import PLAIN

MUPCHECK = [sys.executable, "-m", "mupcheck"]


def shell(line: str, tmp_path, **environment: str) -> tuple[int, str, str]:
    """Run a line of bash in which $m is the command line; return its exit code, stdout and stderr."""
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        env=os.environ | {"m": " ".join(MUPCHECK), "PYTHONUNBUFFERED": ""} | environment,
        cwd=tmp_path,
        timeout=120,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("$m rules >&-", exits.OK, ""),
        ("$m rules >/dev/null 2>&-", exits.OK, ""),
        ("$m rules >&- 2>&- <&-", exits.OK, ""),
        ("$m rules -p nope >&-", exits.USAGE, "error: unknown parametrization 'nope'; known: "),
        ("$m rules -p nope 2>&-", exits.USAGE, ""),
        ("$m rules -p nope 2>/dev/full", exits.USAGE, ""),
        ("$m rules >/dev/full", exits.STORAGE, "error: cannot write the answer: No space left on device"),
        ("$m rules --json >/dev/full", exits.STORAGE, "error: cannot write the answer: No space left on device"),
        (
            "PYTHONUNBUFFERED=1 $m --help >/dev/full",
            exits.STORAGE,
            "error: cannot write the answer: No space left on device",
        ),
        ("$m rules | true; exit ${PIPESTATUS[0]}", exits.OK, ""),
        ("$m rules --json | head -1 >/dev/null; exit ${PIPESTATUS[0]}", exits.OK, ""),
        ("$m --help | true; exit ${PIPESTATUS[0]}", exits.OK, ""),
        ("PYTHONIOENCODING=ascii $m coord --help | true; exit ${PIPESTATUS[0]}", exits.OK, ""),
        ("PYTHONUNBUFFERED=1 $m rules | true; exit ${PIPESTATUS[0]}", exits.OK, ""),
        ("$m rules -p nope 2>&1 | true; exit ${PIPESTATUS[0]}", exits.USAGE, ""),
    ],
)
def test_a_stream_that_takes_nothing_ends_in_one_line_at_most(tmp_path, line, code, said):
    found, out, err = shell(line, tmp_path)
    assert (found, out) == (code, "")
    assert err.startswith(said) and err.count("\n") == bool(said), err


SWEEP = (
    "$m lr-sweep --data synthetic --widths 16,32 --layers 1 --heads 2 --seeds 1 --steps 3 --batch-size 2 --seq-len 8 "
    "--eval-tokens 16 --device cpu -p gdn-mup --lrs 2^-8:2^-6:2"
)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"{SWEEP} --jobs 2 2>&1 | head -1", exits.CANNOT_TELL),
        (f"{SWEEP} --jobs 1 2>&1 | true", exits.CANNOT_TELL),
        (f"{SWEEP} --jobs 1 >/dev/null 2>&1; $m check results 2>&1 | head -1", exits.CANNOT_TELL),
        (f"{SWEEP} --jobs 1 >/dev/null 2>&1; $m plot results 2>&1 | head -1", exits.OK),
        (f"{SWEEP} --jobs 1 >/dev/null 2>&1; $m plot results | true", exits.OK),
    ],
)
def test_a_sweep_whose_reader_leaves_trains_to_its_end(tmp_path, line, code):
    found, out, _ = shell(f"{line}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert found == code
    assert "Traceback" not in out
    assert len(list((tmp_path / "results" / "lr" / "runs").glob("*.parquet"))) == 6


ASCII = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@pytest.mark.parametrize("environment", ASCII, ids=["PYTHONIOENCODING", "LC_ALL=C"])
def test_an_ascii_stream_gets_ascii(tmp_path, environment):
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nbase = "sp"\nsummary = "μ → ½ ± … \U0001f600"\n', encoding="utf-8"
    )
    for arguments in ("explain z_beta", "coord --help"):
        code, out, err = shell(f"$m {arguments}", tmp_path, **environment)
        assert (code, err) == (exits.OK, "") and out and out.isascii()
    code, out, err = shell("$m rules -p mine.toml", tmp_path, **environment)
    assert "mu -> \\xbd +- ... \\U0001f600" in out
    code, out, err = shell("$m rules -p µ.toml", tmp_path, **environment)
    assert (code, out) == (exits.USAGE, "") and err.isascii() and err.count("\n") == 1
    # JSON says what it has to say in ASCII too
    code, out, err = shell("$m rules -p mine.toml --json", tmp_path, **environment)
    assert out.isascii() and json.loads(out)[0]["parametrization"] == "mine"


def test_what_stands_for_a_character_is_ascii_and_leaves_json_whole():
    for character, plain in PLAIN.items():
        assert not character.isascii() and plain.isascii() and not set(plain) & set('"\\\n')
