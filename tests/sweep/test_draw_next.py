"""The initial values of the next group are begun while the one GPU is at the group before it."""

from dataclasses import replace

from tiny_sweeps import tiny

from mupcheck.model import build
from mupcheck.sweep import runner
from mupcheck.sweep.engines import local
from mupcheck.sweep.plan import plan_sweep


def test_the_next_group_is_begun_once_when_the_one_before_it_begins(tmp_path, monkeypatch):
    plan = plan_sweep(tiny(), out=tmp_path)
    assert len(plan.groups) == 2
    said = []
    monkeypatch.setattr(build, "draw_ahead", lambda runs, device: said.append((runs[0].width, device)))

    def execute(waiting, work, **options):
        while waiting:
            group = waiting.popleft()
            said.append("start")
            if group in plan.groups:
                yield from (local.Message(group, steps=1) for _ in range(3))
            yield local.Message(group)

    monkeypatch.setattr(local, "execute", execute)
    list(runner.execute(replace(plan, devices=("cuda:0",), device="cuda:0", jobs=1)))
    wide, narrow = (group[0].width for group in plan.groups)
    assert said == [(wide, "cuda:0"), "start", "start", (narrow, "cuda:0"), "start"]
    said.clear()
    list(runner.execute(plan, jobs=1))
    list(runner.execute(replace(plan, devices=("cuda:0", "cuda:1"), device="cuda:0", jobs=2)))
    assert set(said) == {"start"}, "on a CPU there is nothing to wait for, and a worker is another process"
