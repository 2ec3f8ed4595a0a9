"""An audit leaves to another process what that is training."""

import threading
import time
from pathlib import Path

from commands import mupcheck

from mupcheck.results.claims import Claims
from mupcheck.results.owners import owners
from mupcheck.results.reading import finished_runs
from mupcheck.sweep import sharing

MODEL = """
from torch import nn

def build(width):
    return nn.Sequential(nn.Embedding(16, width), nn.Linear(width, 16))
"""


def test_an_audit_leaves_to_another_process_what_that_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sharing, "SECONDS_BETWEEN_LOOKS", 0.1)
    Path("my.py").write_text(MODEL)
    command = ("audit", "my.py", "--widths", "16,32,64", "--seeds", "1", "--jobs", "1")
    first = mupcheck(*command)
    folder = Path("results/my")
    run_id = min(finished_runs(folder))
    there = folder / "runs" / f"{run_id}.parquet"
    theirs = there.rename(tmp_path / there.name)
    with Claims(folder) as other:
        assert other.take([run_id]) == [run_id]

        def write():
            while len(owners(folder)) < 2:  # the audit has planned what to train
                time.sleep(0.01)
            time.sleep(0.5)
            theirs.rename(there)
            other.release([run_id])

        thread = threading.Thread(target=write)
        thread.start()
        written = theirs.stat().st_mtime_ns
        again = mupcheck(*command)
        thread.join()
    assert "waiting for 1 run that " in again.err
    assert (again.out, again.code) == (first.out, first.code)
    assert there.stat().st_mtime_ns == written, "it was not trained again"
    assert not (folder / "claims").exists()
