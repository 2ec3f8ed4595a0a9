"""A run that several processes train together goes on, after any end, from the furthest step that all of them kept."""

import math
import os
import signal
import warnings

import pytest
import torch
from ranked import over_ranks, server_of_ranks
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.model.ranks import Ranks
from mupcheck.results.reading import load_results
from mupcheck.sweep import shared_checkpoints, shared_run
from mupcheck.sweep.checkpoint_file import FOLDER, headers_in
from mupcheck.sweep.checkpoints import VARIABLE
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.runner import execute
from mupcheck.sweep.shared_checkpoints import SharedKeeper
from mupcheck.sweep.shared_run import train_rank
from mupcheck.training.rows import StepRow
from mupcheck.training.sharded import train_sharded
from mupcheck.training.state import State

LONG = tiny(parametrizations=("gdn-mup",), lrs=(2.0**-8,), steps=60, widths=(16,), clip=1.0)
MINUTES = "0.0005"
STEPS = (8, 16, 24)  # after which a checkpoint is kept


# --- the state --------------------------------------------------------------------------------------------------------


def gone_on(ranks, device, runs, corpus, at, forgets=""):
    """Return the rows of each run whole, and those after `at` steps from the state there, without what it forgets."""
    found = []
    for run in runs:
        states = []

        def between(take, states=states):
            states.append(take())
            # the next step changes what lies on the CPU
            states[-1].tensors.update({name: tensor.clone() for name, tensor in states[-1].tensors.items()})

        whole = list(train_sharded(run, corpus, ranks=ranks, device=device, between=between))
        (state,) = (each for each in states if each.step == at)
        for name in [name for name in state.tensors if forgets and name.startswith(forgets)]:
            state.tensors[name].zero_()
        found.append((whole, list(train_sharded(run, corpus, ranks=ranks, device=device, start=state))))
    return found


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_from_a_state_the_same_bits_follow_on_gpus(corpus, make_run, tmp_path):
    ((((whole, rest),),), _) = over_ranks(
        gone_on, 2, [make_run(width=16, batch_size=4, steps=8)], corpus, 3, device="cuda"
    )
    assert repr(rest) == repr(whole[3:])
    found = over_ranks(kept_by_ranks, 2, make_run(), tmp_path, newest_lost, True, device="cuda")
    assert found == [((STEPS[-2], 0),)] * 2


def test_from_a_state_the_same_bits_follow(corpus, make_run):
    how = {"width": 16, "batch_size": 4, "steps": 8, "clip": 1.0, "weight_decay": 0.1}
    check = {"kind": "coord", "probes": "full", "record": (0, 1, 5)}
    runs = [make_run(**how), make_run("sp", optimizer="sgd", momentum=0.9, **how), make_run(**how | check)]
    runs += [make_run(**how | {"lr": 1.0, "clip": 0.0})]  # whose loss is too high from step 1 on, as is seen at step 5
    ((found,), _) = over_ranks(gone_on, 2, runs, corpus, 3)
    assert found[-1][0][-1].diverged == ["loss above 5.06 for 5 steps"]
    for whole, rest in found:
        assert len(rest) > 2 and repr(rest) == repr(whole[3:])
    for run, forgets in ((runs[0], "mean_square/"), (runs[1], "velocity/"), (runs[2], "first/"), (runs[2], "shadow/")):
        ((((whole, rest),),), _) = over_ranks(gone_on, 2, [run], corpus, 3, forgets)
        assert repr(rest) != repr(whole[3:]), forgets


# --- files of ranks ---------------------------------------------------------------------------------------------------


def kept_by_ranks(ranks, device, run, folder, harm, cut):
    """Keep a checkpoint at each of STEPS, let `harm` come to the files, and return from where the next start goes on.

    Args:
        cut: whether all are killed when the last is written and the one before not yet removed.
    """
    os.environ[VARIABLE] = "1000"
    keeper = SharedKeeper(folder, (run,), device, {}, ranks=ranks)
    for step in STEPS:
        keeper.due = 0.0 if ranks.rank == 0 else math.inf  # the first rank's clock is all ranks'
        rows = [StepRow(at, [1.0], [1.0], [1.0], [False], [None]) for at in range(step)]
        with pytest.MonkeyPatch.context() as patch:
            if cut and step == STEPS[-1]:
                patch.setattr(shared_checkpoints, "remove", lambda file: None)
            keeper.offer(rows, lambda step=step: State(step, {"of": torch.tensor([step, ranks.rank])}))
    ranks.each(torch.zeros(1, device=device))
    if ranks.rank == 0:
        harm({(header.where["rank"][0], header.step): file for file, header in headers_in(folder)})
    ranks.each(torch.zeros(1, device=device))
    new = SharedKeeper(folder, (run,), device, {}, ranks=ranks)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        kept = new.take_up()
    if kept is None:
        return None, len(said)
    assert len(kept.rows) == kept.header.step and kept.state.tensors["of"].tolist() == [kept.header.step, ranks.rank]
    return kept.header.step, len(said)


def nothing(files):
    pass


def newest_lost(files):
    files["1", STEPS[-1]].unlink()


def newest_damaged(files):
    file = files["0", STEPS[-1]]
    file.write_bytes(file.read_bytes()[:-1])


def all_of_one_lost(files):
    for (rank, _), file in files.items():
        if rank == "1":
            file.unlink()


@pytest.mark.parametrize(
    ("harm", "cut", "step", "said"),
    [
        (nothing, False, STEPS[-1], 0),
        (nothing, True, STEPS[-1], 0),
        (newest_lost, True, STEPS[-2], 0),
        (newest_damaged, True, STEPS[-2], 1),
        (all_of_one_lost, True, None, 0),
        (newest_lost, False, None, 0),
    ],
)
def test_all_ranks_go_on_from_the_furthest_step_that_each_has(make_run, tmp_path, harm, cut, step, said):
    found = [of_rank for (of_rank,) in over_ranks(kept_by_ranks, 2, make_run(), tmp_path, harm, cut)]
    assert [each[0] for each in found] == [step, step] and sum(each[1] for each in found) == said


def test_each_rank_keeps_one_file_and_other_numbers_of_ranks_do_not_take_it(make_run, tmp_path):
    over_ranks(kept_by_ranks, 2, make_run(), tmp_path, nothing, False)
    assert sorted(header.where["rank"] for _, header in headers_in(tmp_path)) == ["0 of 2", "1 of 2"]
    alone = SharedKeeper(tmp_path, (make_run(),), "cpu", {}, ranks=Ranks())
    assert alone.take_up() is None
    both = SharedKeeper(tmp_path, (make_run(),), "cpu", {}, ranks=Ranks(0, 2))
    both.remove()
    assert not (tmp_path / FOLDER).exists()


# --- a sweep ----------------------------------------------------------------------------------------------------------


def killed_once(group, *, rank, folder, **options):
    """Work of a rank that SIGKILLs its process once there are checkpoints, but not where it goes on from them."""
    os.environ[VARIABLE] = MINUTES  # the fork server's is what it was when the first test started it
    begun = False
    for steps in train_rank(group, rank=rank, folder=folder, **options):
        begun = begun or steps > 1
        kept = min((header.step for _, header in headers_in(folder)), default=0)
        if not begun and rank == 1 and kept >= STEPS[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"began-{rank}-{steps}").touch()
        yield steps


def test_a_run_whose_rank_was_killed_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    server_of_ranks()
    whole, _ = trained(LONG, tmp_path / "whole", gpus_per_run=2)
    monkeypatch.setattr(shared_run, "train_rank", killed_once)
    plan = plan_sweep(LONG, out=tmp_path, gpus_per_run=2)
    (error,) = [state.error for state in execute(plan) if state.error]
    assert "SIGKILL" in error and len(headers_in(plan.folder)) >= 2
    assert [state.error for state in execute(plan_sweep(LONG, out=tmp_path, gpus_per_run=2)) if state.error] == []
    began = {int(file.name.rpartition("-")[2]) for file in plan.folder.glob("began-*")}
    assert max(began) >= STEPS[0], "it went on from there"
    assert not (plan.folder / FOLDER).exists()
    assert_same(numbers(load_results(plan.folder)), numbers(whole))
