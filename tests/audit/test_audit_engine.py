"""What runs an audit: what is there already, processes, the time it takes, Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import mupcheck

import mupcheck as public
from mupcheck.audit.cells import moved, seeded
from mupcheck.cli import exits

QUICK = ("--widths", "16,32,64", "--seeds", "2")
BUILD = """
import torch
from torch import nn

def build(width):
    return nn.Sequential(nn.Embedding(16, width), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 16))
"""
SLOW = (
    BUILD + "\ndef batch(seed):\n    import time\n    time.sleep(0.4)\n    return torch.arange(17)[None] % (3 + seed)\n"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def audited(text, *arguments):
    Path("my.py").write_text(text)
    return mupcheck("audit", "my.py", *QUICK, *arguments)


def values():
    coords = public.load_results("results/my").coords
    return coords.sort_values(["run_id", "step", "layer", "site", "kind", "stat"])["value"].to_numpy()


def test_a_run_that_is_there_is_not_done_again_whatever_ran_beside_it():
    first = audited(BUILD, "--jobs", "1")
    known = values()
    assert "6 of 6 runs to train" in first.err
    again = audited(BUILD)
    assert "all 6 runs are there already" in again.err and (again.out, again.code) == (first.out, first.code)
    for file in sorted(Path("results/my/runs").iterdir())[::2]:
        file.unlink()
    assert "3 of 6 runs to train" in audited(BUILD, "--jobs", "2").err
    assert np.array_equal(values(), known, equal_nan=True)
    assert "6 of 6 runs" in audited(BUILD, "--fresh").err
    # a seed more is what is missing; another lr or file is another audit
    assert "3 of 9 runs to train" in audited(BUILD, "--seeds", "3").err
    assert "6 of 6 runs to train" in audited(BUILD, "--lr", "0.01").err
    assert "6 of 6 runs to train" in audited(BUILD + "# changed").err


def test_what_a_file_imports_beside_it_is_part_of_it(tmp_path):
    Path("sizes_of_mine.py").write_text("OUT = 16")
    text = "from sizes_of_mine import OUT\n" + BUILD.replace("(width, 16)", "(width, OUT)")
    Path("my.py").write_text(text)

    def run():
        command = [sys.executable, "-m", "mupcheck", "audit", "my.py", *QUICK, "--jobs", "1"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stderr

    assert "6 of 6 runs to train" in run()
    assert "all 6 runs are there already" in run()
    Path("sizes_of_mine.py").write_text("OUT = 17")
    assert "6 of 6 runs to train" in run()


def test_random_numbers_of_any_kind_are_those_of_width_and_seed():
    noisy = BUILD + (
        "\nimport random\nimport numpy\nAT_IMPORT = torch.rand(1).item() + random.random() + numpy.random.rand()\n"
        "def batch(seed):\n    drawn = random.random() + numpy.random.rand() + torch.rand(1).item()\n"
        "    return (torch.arange(17)[None] * int(1e6 * (drawn + AT_IMPORT))) % 16\n"
    )
    audited(noisy, "--jobs", "1")
    known = values()
    audited(noisy, "--jobs", "2", "--fresh")
    assert np.array_equal(values(), known, equal_nan=True)


def test_a_dry_run_times_steps_and_writes_nothing():
    answer = audited(BUILD, "--dry-run")
    assert answer.code == exits.OK and not Path("results").exists()
    assert re.search(r"6 of 6 runs to train into results/my, about .* nothing was written", answer.out)
    document = audited(SLOW, "--dry-run", "--json", "--jobs", "1").json
    assert [row["width"] for row in document["widths"]] == [16, 32, 64]
    # 0.4 s for every batch are seen
    assert 2.4 < document["seconds"] < 6
    assert document["seconds"] / 2 < audited(SLOW, "--dry-run", "--json", "--jobs", "2").json["seconds"]
    assert audited(BUILD + "\ndef batch(seed):\n    return {}[seed]", "--dry-run").code == exits.USAGE


def test_ctrl_c_keeps_what_is_done_and_says_how_it_goes_on():
    Path("my.py").write_text(SLOW)
    command = [sys.executable, "-m", "mupcheck", "audit", "my.py", *QUICK, "--jobs", "2"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not list(Path("results").glob("my/runs/[!.]*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == exits.INTERRUPTED, said
    found = re.search(
        r"interrupted with (\d) of 6 runs missing; finished runs are kept, this goes on from them: ", said
    )
    assert found and 1 <= int(found[1]) <= 5 and "Traceback" not in said
    assert said.rstrip().endswith("mupcheck audit my.py --widths 16,32,64 --seeds 2 --jobs 2")
    assert f"{found[1]} of 6 runs to train" in mupcheck(*command[3:]).err


def test_a_run_whose_process_dies_is_said_and_the_others_are_kept():
    text = BUILD + (
        "\nimport multiprocessing as m, os, signal\ndef batch(seed):\n"
        "    if seed == 1 and m.parent_process() is not None:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return torch.arange(17)[None] % 7\n"
    )
    answer = audited(text, "--jobs", "2")
    assert answer.code == exits.STORAGE
    assert re.search(r"failed: width \d+, seed 1: its process was ended by SIGKILL \(out of memory\?\)", answer.err)


def test_tensors_go_where_they_are_told_in_whatever_holds_them():
    class Pair(tuple):
        __slots__ = ()

    given = {"x": torch.zeros(2), "rest": [torch.ones(1), ("name", 3)], "pair": Pair([torch.ones(1)])}
    there = moved(given, "meta")
    assert there["x"].is_meta and there["rest"][0].is_meta and there["rest"][1] == ("name", 3)
    assert isinstance(there["pair"], Pair) and there["pair"][0].is_meta
    assert moved(given, None) is given
    seeded(8, 0)
    first = torch.rand(1), np.random.rand()
    seeded(8, 0)
    assert (torch.rand(1), np.random.rand()) == first
