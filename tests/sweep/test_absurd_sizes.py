"""Sizes that no machine has: one line and exit code 2 at once, nothing written, on every road to a sweep."""

import re
import time

import pytest
from commands import mupcheck

from mupcheck.cli import exits
from mupcheck.sweep import plan as plan_file
from mupcheck.sweep.machine import available_memory

ABSURD = [
    ("--widths 1000000000", "width 1000000000 does not fit: needs more than 1,024 PiB of"),
    ("--widths 64,100000000000", "--widths: 100000000000 is not allowed: input should be at most 2,147,483,647"),
    ("--widths 16384,65536 --base-width 64", "width 65536 does not fit: needs"),
    ("--layers 1000000", "does not fit: needs"),
    ("--layers 10000000000", "--layers 10000000000 is not allowed: input should be at most 2,147,483,647"),
    ("--layers 2000000000", "does not fit: needs"),
    ("--widths 2147483600", "does not fit: needs|is beyond"),
    ("--seq-len 100000000", "fewer than one batch of 1 x 100000000"),
    ("--batch-size 10000000", "fewer than one batch of 10000000 x 16"),
    ("--steps 1000000000000", "--steps 1000000000000 is not allowed: input should be at most"),
    ("--seeds 1000000000", "give 1 to 100,000"),
    ("--vocab-size 1000000000", "give 2 to 65536"),
    ("--heads 1000000", "does not divide 3/4 of --base-width 32"),
    ("--record 0,1000000000", "does not fit: needs .*; try fewer --steps"),
]


@pytest.fixture(autouse=True)
def _a_machine_of_23_gib(tmp_path, monkeypatch, nothing_timed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_file, "available_memory", lambda device: min(available_memory(device), 23 * 2**30))


@pytest.fixture(scope="module")
def _imported(tmp_path_factory):
    """Import what a dry run does, once."""
    mupcheck("coord", "--data", "synthetic", "--dry-run", "--out", tmp_path_factory.mktemp("out"))


@pytest.mark.usefixtures("_imported")
@pytest.mark.parametrize("more", ["", "--dry-run", "--dry-run --json"])
@pytest.mark.parametrize(("options", "said"), ABSURD, ids=[options for options, _ in ABSURD])
def test_an_absurd_size_is_refused_at_once(tmp_path, options, said, more):
    start = time.process_time()
    answer = mupcheck("coord", "--data", "synthetic", "--device", "cpu", *options.split(), *more.split())
    assert answer.code == exits.USAGE
    lines = answer.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert re.search(said, lines[0]), lines[0]
    assert time.process_time() - start < 2
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_what_does_not_fit_says_so_and_shows_where(tmp_path):
    options = ("--data", "synthetic", "--device", "cpu", "--widths", "64,16384", "--seeds", "2", "--dry-run")
    answer = mupcheck("coord", *options)
    assert answer.code == exits.USAGE
    assert "does not fit: 2 processes at a time need" in answer.out or "does not fit: 1 process" in answer.out
    assert "no estimate of time" in answer.out
    assert "GiB/group" in answer.out
    forced = mupcheck("coord", *options, "--force")
    assert (forced.code, forced.err) == (exits.OK, "")
    as_json = mupcheck("coord", *options, "--json")
    assert as_json.code == exits.USAGE
    plan = as_json.json
    assert plan["fits"] is False
    assert plan["seconds"] is None
    assert plan["needed_bytes"] > plan["available_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("widths", ["64,128,256,512", "256,512,1024,2048"])
def test_a_dry_run_can_be_read_at_80_columns(widths):
    answer = mupcheck("coord", "--data", "synthetic", "--device", "cpu", "--widths", widths, "--dry-run", "--force")
    table = answer.out.split("width ")[1].split("process")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "cores)" in answer.out
    assert "GiB free on this machine" in answer.out


def test_force_trains_what_is_said_not_to_fit(monkeypatch):
    monkeypatch.setattr(plan_file, "available_memory", lambda _: 2**20)
    small = "--data synthetic --device cpu --widths 16,32,64 --seeds 2 --steps 1 --record 0,1 --layers 1 --jobs 1"
    answer = mupcheck("coord", *small.split())
    assert answer.code == exits.USAGE
    assert "width 64 does not fit: needs 0.27 GiB of 0.00 GiB free" in answer.err
    assert mupcheck("coord", *small.split(), "--force").code != exits.USAGE
