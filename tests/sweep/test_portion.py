"""What is handed out holds runs whole, and who takes it believes no other version's."""

import json

import pytest
from commands import mupcheck
from tiny_sweeps import assert_same, numbers, tiny, tiny_coord, trained

from mupcheck.results.reading import finished_runs, load_results
from mupcheck.results.writing import write_sweep
from mupcheck.sweep.described import describe
from mupcheck.sweep.path import PathTask, path_task
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.portion import Portion, read_portion, read_report, write_portion
from mupcheck.sweep.work import work

KEY = "0123456789ab"


def handed_out(plan, tasks=None):
    groups = ((path_task(plan),), *plan.groups)
    portion = Portion(plan.folder, KEY, plan.sweep.name, groups, tasks or ((tuple(range(len(groups)))),))
    write_sweep(plan.folder, describe(plan))
    write_portion(portion)
    return portion


@pytest.mark.parametrize("sweep", [tiny(), tiny_coord(optimizer="sgd", mode="heads")])
def test_runs_come_back_as_they_were(sweep, tmp_path):
    portion = handed_out(plan_sweep(sweep, out=tmp_path))
    again = read_portion(portion.folder, KEY)
    assert again.tasks == portion.tasks and again.sweep == portion.sweep
    for one, other in zip(again.groups, portion.groups, strict=True):
        runs, others = (part[0].groups if isinstance(part[0], PathTask) else (part,) for part in (one, other))
        assert [run.run_id for part in runs for run in part] == [run.run_id for part in others for run in part]
        # all of a run but the words of its table
        assert [r.model_dump(exclude={"table"}) for part in runs for r in part] == [
            r.model_dump(exclude={"table"}) for part in others for r in part
        ]


def test_a_task_trains_what_is_missing_and_no_more(tmp_path):
    sweep = tiny(parametrizations=("gdn-mup",))
    here, _ = trained(sweep, tmp_path / "local", jobs=1)
    plan = plan_sweep(sweep, out=tmp_path)
    portion = handed_out(plan, ((0, 1), (2,)))
    assert work(read_portion(plan.folder, KEY), 1, jobs=1) == []
    assert finished_runs(plan.folder) == {run.run_id for run in plan.groups[1]}
    written = {file: file.stat().st_mtime_ns for file in (plan.folder / "runs").iterdir()}
    for task in (0, 1, 0):
        assert work(read_portion(plan.folder, KEY), task, jobs=2) == []
    assert all(file.stat().st_mtime_ns == at for file, at in written.items())
    assert_same(numbers(load_results(plan.folder)), numbers(here))
    assert [read_report(portion, index) for index in range(3)] == [[], [], []]
    assert json.loads((plan.folder / "sweep.json").read_text())["path"]


def test_a_group_that_fails_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    plan = plan_sweep(tiny(parametrizations=("gdn-mup",)), out=tmp_path)
    portion = handed_out(plan)

    def full(group, **_):
        if group[0].width == 32:
            raise OSError(f"no space for {len(group)}")
        yield 1

    monkeypatch.setattr("mupcheck.sweep.runner.run_group", full)
    assert work(read_portion(plan.folder, KEY), 0, jobs=1) == ["2 runs of width 32: no space for 2"]
    assert (read_report(portion, 1), read_report(portion, 2)) == (["2 runs of width 32: no space for 2"], [])


def test_a_group_that_is_out_of_memory_is_tried_in_halves(tmp_path, monkeypatch):
    plan = plan_sweep(tiny(parametrizations=("gdn-mup",), widths=(16,)), out=tmp_path)
    handed_out(plan)
    tried = []

    def tight(group, **_):
        tried.append(len(group))
        if len(group) > 1:
            raise MemoryError
        yield 1

    monkeypatch.setattr("mupcheck.sweep.runner.run_group", tight)
    assert work(read_portion(plan.folder, KEY), 0, jobs=1) == []
    assert tried == [2, 1, 1]


def test_another_version_is_refused(tmp_path, monkeypatch):
    portion = handed_out(plan_sweep(tiny(), out=tmp_path))
    monkeypatch.setattr("mupcheck.spec.run.NUMERICS", 99)
    with pytest.raises(ValueError, match="would train other runs"):
        read_portion(portion.folder, KEY)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"mupcheck": 1, "tables": {}, "runs": {"a": {}}, "groups": []}'])
def test_what_is_no_portion_is_refused(text, tmp_path):
    portion = handed_out(plan_sweep(tiny(), out=tmp_path))
    (portion.place / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json is not what this mupcheck"):
        read_portion(portion.folder, KEY)


def test_other_data_is_refused(tmp_path, monkeypatch):
    from dataclasses import replace

    from mupcheck.training.data.sources import open_corpus

    portion = handed_out(plan_sweep(tiny(), out=tmp_path))
    monkeypatch.setattr(
        "mupcheck.sweep.work.open_corpus", lambda data, vocab_size: replace(open_corpus(data, vocab_size=32), hash="x")
    )
    with pytest.raises(ValueError, match="is other data here"):
        work(read_portion(portion.folder, KEY), 0)
    with pytest.raises(ValueError, match="there is no task 7"):
        work(portion, 7)


def test_a_task_that_is_not_there_is_one_line(tmp_path):
    plan = plan_sweep(tiny(), out=tmp_path)
    write_portion(Portion(plan.folder, KEY, "tiny", plan.groups, ((0,),)))
    for task in (1, -1):
        answer = mupcheck("work", plan.folder, "--plan", KEY, "--task", task)
        assert answer.code == 2 and f"there is no task {task}" in answer.err
