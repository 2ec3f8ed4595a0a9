"""A task that was handed out trains nothing that another process is training."""

import shutil
import threading
import time

import pytest
from test_portion import handed_out
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.results.claims import Claims
from mupcheck.results.reading import load_results
from mupcheck.sweep import runner, sharing
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.portion import read_report
from mupcheck.sweep.work import work


@pytest.mark.parametrize("writes", [True, False])
def test_a_task_leaves_to_another_process_what_that_trains(writes, tmp_path, monkeypatch):
    sweep = tiny(parametrizations=("gdn-mup",))
    there, _ = trained(sweep, tmp_path / "there", jobs=1)
    plan = plan_sweep(sweep, out=tmp_path)
    portion = handed_out(plan)
    train, trained_here = runner.run_group, []

    def noted(group, **where):
        trained_here.extend(run.run_id for run in group)
        return train(group, **where)

    monkeypatch.setattr(runner, "run_group", noted)
    monkeypatch.setattr(sharing, "SECONDS_BETWEEN_LOOKS", 0.1)
    theirs = [run.run_id for run in plan.groups[0][:1]]
    with Claims(plan.folder) as other:
        assert other.take(theirs) == theirs

        def end():
            time.sleep(0.5)
            for table in ("steps", "runs") if writes else ():
                for run_id in theirs:
                    (plan.folder / table).mkdir(exist_ok=True)
                    shutil.copy(tmp_path / "there" / "tiny" / table / f"{run_id}.parquet", plan.folder / table)
            other.release(theirs)

        thread = threading.Thread(target=end)
        thread.start()
        assert work(portion, 0, jobs=1) == []
        thread.join()
    assert len(trained_here) == len(set(trained_here)) == 4 - writes
    assert set(theirs).isdisjoint(trained_here) == writes
    assert [read_report(portion, index) for index in range(3)] == [[], [], []]
    assert_same(numbers(load_results(plan.folder)), numbers(there), rtol=1e-5)
