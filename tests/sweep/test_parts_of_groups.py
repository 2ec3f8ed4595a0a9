"""Checkpoints of a part of a group: of what is left of it, and of one rank's part of a run."""

import time
from dataclasses import replace

import pytest
from test_checkpoints import a_sweep, ended_after, working
from tiny_sweeps import assert_same, numbers, trained

from mupcheck.sweep import checkpoints
from mupcheck.sweep.checkpoint_file import FOLDER, Header, headers_in, write_checkpoint
from mupcheck.sweep.checkpoints import Keeper, kept_groups, steps_kept
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.provenance import provenance
from mupcheck.sweep.runner import run_sweep


@pytest.fixture(autouse=True)
def _at_every_step(monkeypatch):
    monkeypatch.setenv(checkpoints.VARIABLE, "1e-9")


def test_what_is_left_of_a_group_keeps_its_checkpoint_until_it_has_one_of_its_own(tmp_path):
    """Half of it diverges at the second step, and from there on what is left trains as a group of its own."""
    sweep = a_sweep(lrs=(2.0**-8, 1e30), steps=24)
    whole, _ = trained(sweep, tmp_path / "whole", jobs=1)
    at = int(whole.runs["diverged_step"].max()) + 1
    for steps in (at, at + 1, 12):  # with the checkpoint of all, with the first of what is left, with a later one
        plan = plan_sweep(sweep, out=tmp_path / str(steps))
        file = ended_after(plan, steps)
        (header,) = [header for found, header in headers_in(plan.folder) if found == file]
        assert len(header.run_ids) == (4 if steps == at else 2) and header.step >= at - 1
        work = working(plan, plan_sweep(sweep, out=tmp_path / str(steps)).groups[0])
        assert next(work) == header.step
        work.close()
        # in other groups the norm of gradients may round otherwise
        assert_same(numbers(run_sweep(sweep, out=plan.folder.parent, device="cpu", jobs=1)), numbers(whole), rtol=1e-6)
        assert not (plan.folder / FOLDER).exists()


def test_what_has_trained_for_long_writes_its_own_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv(checkpoints.VARIABLE, "1")
    (group,) = plan_sweep(a_sweep(), out=tmp_path).groups
    for seconds, due in ((59.0, False), (61.0, True)):
        keeper = Keeper(tmp_path, group[:1], "cpu", provenance())
        all_of_it = Header(tuple(run.run_id for run in group), keeper.where, 5, seconds, keeper.started_at)
        keeper.succeed(all_of_it)
        assert keeper.seconds >= seconds and (keeper.due <= time.monotonic()) == due
        # and leaves a warned task with a checkpoint, short as it trained by itself
        assert time.monotonic() - keeper.since >= checkpoints.LEAST_SECONDS


def test_parts_of_a_run_that_ranks_keep_are_no_groups(tmp_path):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    ended_after(plan, 5)
    (group,) = plan.groups
    mine = Keeper(plan.folder, group, "cpu", provenance())
    kept = mine.take_up()
    header = replace(
        kept.header, run_ids=(group[0].run_id,), step=7, where=mine.where | {"rank": "0 of 2", "turn": "0"}
    )
    write_checkpoint(plan.folder / FOLDER / "0.ckpt", header, kept.rows, kept.state)
    assert kept_groups(plan.folder, plan.runs, "cuda") == [group]
    assert steps_kept(plan.folder, [run.run_id for run in group]) == 5 * len(group)
