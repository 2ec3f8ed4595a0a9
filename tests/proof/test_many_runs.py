"""What a run costs whoever scans or loads its folder, by the processor's time, which other processes leave alone."""

from mupcheck.proof.many_runs import time_folder

N = 250
# seconds of 10,000 runs; two to four times what is measured, as machines of CI are slow
MOST = {"scan for resume": 0.5, "load": 30, "check each file": 30, "load, compacted": 2}
ONCE = 0.3  # seconds that do not grow with the runs: the first read of each kind


def test_ten_thousand_runs_are_scanned_and_loaded_at_once(tmp_path):
    took = {each.what: each.cpu_seconds for each in time_folder(tmp_path / "s", N, n_steps=20)}
    assert {name: took[name] for name, most in MOST.items() if took[name] > ONCE + most * N / 10_000} == {}
    assert took["load, compacted"] < took["load"]
