"""A sweep that is killed or interrupted goes on where it was; `make faults` does so hundreds of times."""

import sys

import pytest
from interrupts import CASES
from interrupts import measure as interrupt
from kills import measure as kill
from processes import start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def test_kills_lose_and_double_nothing(tmp_path):
    # mostly workers: another command takes seconds to start
    often = ("worker", "worker", "worker", "parent", "both")
    rows, wasted = kill(tmp_path, kills=8, seeds=1, steps=8, what=often, window=0.2)
    assert rows.good, rows.faults
    assert wasted.says


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_a_signal_ends_a_sweep_soon_and_leaves_nothing(tmp_path, case):
    (line,) = interrupt(tmp_path, times=1, cases=(case,))
    assert line.good, line.faults


def test_what_is_left_behind_is_found(tmp_path):
    script = tmp_path / "leaves.py"
    script.write_text("import subprocess\nsubprocess.Popen(['sleep', '60'])\n")
    command = start(err=tmp_path / "err", script=script)
    assert command.ends(30)
    (orphan,) = command.orphans(0.1).values()
    assert orphan.startswith("sleep")
    command.kill(*command.orphans(0))
    assert not command.orphans(5)
