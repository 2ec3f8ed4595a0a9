"""A sweep from spec to files: whole, resumable, the same in any number of processes, surviving what kills a part."""

import math

import numpy as np
from tiny_sweeps import assert_same, files, numbers, tiny, tiny_coord, trained

from mupcheck.results.reading import load_results
from mupcheck.sweep.group import final_loss
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.rounds import rounds
from mupcheck.sweep.runner import execute

# --- what is written --------------------------------------------------------------------------------------------------


def test_every_run_is_written_whole(done):
    out, results, progress = done
    sweep = tiny()
    plan = plan_sweep(sweep, out=out)
    ids = {run.run_id for run in plan.runs}
    assert plan.missing == 0
    assert len(ids) == 8
    folder = out / "tiny"
    assert {file.stem for file in (folder / "runs").iterdir()} == ids
    assert {file.stem for file in (folder / "steps").iterdir()} == ids
    assert not (folder / "coords").exists()
    assert [file for file in folder.rglob("*") if file.name.startswith(".")] == []
    runs = results.runs.set_index("run_id")
    for run in plan.runs:
        row = runs.loc[run.run_id]
        for name in ("width", "base_width", "parametrization", "lr", "seed", "rules_hash", "data_hash", "steps"):
            assert row[name] == getattr(run, name)
        assert row["status"] == "ok"
        assert row["tokens"] == 4 * 2 * 16
        steps = results.steps[results.steps["run_id"] == run.run_id].sort_values("step")
        assert steps["step"].tolist() == [0, 1, 2, 3]
        assert steps["tokens"].tolist() == [0, 32, 64, 96]
        assert row["train_loss"] == steps["loss"].iloc[-1]
        assert row["val_loss"] == row["best_val_loss"] == steps["val_loss"].iloc[-1]
        assert steps["val_loss"].isna().tolist() == [True, True, True, False]
        assert math.isfinite(row["val_loss"])
    resolved = results.sweeps["tiny"]
    assert set(resolved["run_ids"]) == ids
    assert resolved["spec"]["widths"] == [16, 32]
    done_work = [state.done for state in progress]
    assert all(np.diff(done_work) >= -1e-9 * progress[-1].total)
    assert math.isclose(done_work[-1], progress[-1].total)
    assert (progress[-1].runs_finished, progress[-1].runs_total) == (8, 8)


def test_a_row_says_every_setting_of_its_spec(done):
    out, results, _ = done
    runs = results.runs.set_index("run_id")
    for run in plan_sweep(tiny(), out=out).runs:
        row = runs.loc[run.run_id]
        for name in ("eps", "beta1", "beta2", "min_lr", "accumulation", "mlp_ratio", "conv_size", "projection_factor"):
            assert row[name] == getattr(run, name) or (name == "min_lr" and run.schedule == "constant")
        for name in ("conv_std", "readout_std", "logit_scale", "norm_eps"):
            assert row[name] == getattr(run, name)
        assert row["embedding_std"] == 1
    assert runs["projection_std"].isna().all()  # by projection_factor


def test_a_coordinate_check_has_coords_of_the_steps_asked_for(tmp_path):
    results, _ = trained(tiny_coord(widths=(16,), parametrizations=("gdn-mup",)), tmp_path, jobs=1)
    assert len(results.runs) == 2
    per_run = results.coords.groupby("run_id")
    assert set(per_run.groups) == set(results.runs["run_id"])
    for _, coords in per_run:
        assert sorted(set(coords["step"])) == [0, 1, 3]
        assert not coords.duplicated(["step", "layer", "site", "kind", "stat"]).any()
        assert set(coords["kind"]) >= {"activation", "effective_update", "diagnostic"}
    # seeds are replicas of one model with numbers of their own; gains and what the optimizer applies are the same
    # as is the format that their weights are stored in
    told = results.coords[results.coords["stat"] != "stored_eps"]
    one, two = (coords["value"].to_numpy() for _, coords in told.groupby("run_id"))
    assert 0.7 < (one != two).mean() < 0.9


def test_the_final_loss_is_the_mean_of_the_last_tenth():
    assert final_loss([5.0, 4.0, 3.0]) == 3.0
    assert final_loss([9.0] * 27 + [1.0, 2.0, 6.0]) == 3.0


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_a_second_run_trains_nothing_and_a_deleted_run_alone_is_trained_again(tmp_path):
    sweep, folder = tiny(), tmp_path / "tiny"
    before, _ = trained(sweep, tmp_path, jobs=1)
    untouched = files(folder)
    again, progress = trained(sweep, tmp_path, jobs=1)
    assert progress == []
    assert files(folder) == untouched
    assert_same(numbers(again), numbers(before))

    lost = sorted((folder / "runs").iterdir())[3]
    lost.unlink()
    plan = plan_sweep(sweep, out=tmp_path)
    assert [[run.run_id for run in group] for group in plan.groups] == [[lost.stem]]
    after, _ = trained(sweep, tmp_path, jobs=1)
    changed = {name for name, mtime in files(folder).items() if untouched[name] != mtime}
    assert changed == {f"runs/{lost.name}", f"steps/{lost.name}"}
    # alone it is one replica instead of four: performance.md allows another rounding of the products
    assert_same(numbers(after), numbers(before), rtol=1e-5)

    plan = plan_sweep(sweep, out=tmp_path, fresh=True)
    assert plan.missing == 8
    # another lr is another run; those that are there stay
    plan = plan_sweep(tiny(lrs=(2.0**-8, 2.0**-6, 2.0**-4)), out=tmp_path)
    assert plan.missing == 4
    assert {run.lr for group in plan.groups for run in group} == {2.0**-4}


def test_fresh_trains_all_of_it_again_to_the_same_bits(tmp_path):
    sweep = tiny_coord(widths=(16,))
    before, _ = trained(sweep, tmp_path, jobs=1)
    untouched = files(tmp_path)
    after, _ = trained(sweep, tmp_path, jobs=1, fresh=True)
    assert all(mtime != untouched[name] for name, mtime in files(tmp_path).items())
    assert_same(numbers(after), numbers(before))


# --- lrs that are added -----------------------------------------------------------------------------------------------


REFINED = {"refine": True, "widths": (16,), "parametrizations": ("gdn-mup",), "lrs": (2.0**-9, 2.0**-6), "steps": 8}


def lrs_of(results):
    return sorted(set(results.runs["log2_lr"]))


def test_a_refined_sweep_adds_lrs_until_nothing_is_wanted(tmp_path):
    from mupcheck.learning_rates.refine import next_round

    sweep = tiny(**REFINED, precision=1.0)
    grid, _ = trained(tiny(**REFINED | {"refine": False}), tmp_path / "grid", jobs=1)
    assert lrs_of(grid) == [-9, -6]
    results, progress = trained(sweep, tmp_path, jobs=1)
    assert {-9, -6} < set(lrs_of(results))
    assert progress[-1].runs_finished == len(results.runs)
    assert set(results.sweeps["tiny"]["run_ids"]) == set(results.runs["run_id"])
    assert {(s.log2_lrs, s.reason) for s in next_round(results.runs, lrs=sweep.lrs, precision=1.0)} == {((), "")}

    untouched = files(tmp_path / "tiny")
    again, progress = trained(sweep, tmp_path, jobs=1)
    assert (progress, files(tmp_path / "tiny")) == ([], untouched)
    assert lrs_of(again) == lrs_of(results)
    # without it the sweep is its grid again; what was added stays for when it is asked for
    assert lrs_of(trained(tiny(**REFINED | {"refine": False}), tmp_path, jobs=1)[0]) == [-9, -6]
    assert lrs_of(trained(sweep, tmp_path, jobs=1)[0]) == lrs_of(results)


def test_an_interrupted_search_goes_on_as_it_would_have_gone(tmp_path):
    sweep = tiny(**REFINED, precision=0.5)
    whole, _ = trained(sweep, tmp_path / "whole", jobs=1)
    first = plan_sweep(sweep, out=tmp_path / "cut")
    for i, plan in enumerate(rounds(first)):
        list(execute(plan, jobs=1))
        if i == 1:
            break  # as Ctrl-C does, in the middle of the search
    assert 2 < len(lrs_of(load_results(tmp_path / "cut" / "tiny"))) < len(lrs_of(whole))
    before = files(tmp_path / "cut" / "tiny")
    gone_on, _ = trained(sweep, tmp_path / "cut", jobs=1)
    assert lrs_of(gone_on) == lrs_of(whole)
    after = files(tmp_path / "cut" / "tiny")
    assert {name: after[name] for name in before} == before, "nothing is trained twice"


def test_a_fresh_search_trains_every_run_once(tmp_path):
    sweep = tiny(**REFINED, precision=1.0)
    before, _ = trained(sweep, tmp_path, jobs=1)
    untouched = files(tmp_path)
    plans = []
    for plan in rounds(plan_sweep(sweep, out=tmp_path, fresh=True), fresh=True):
        plans.append([run.run_id for group in plan.groups for run in group])
        list(execute(plan, jobs=1))
    assert sorted(run_id for plan in plans for run_id in plan) == sorted(before.runs["run_id"])
    assert len(plans) > 1
    assert all(mtime != untouched[name] for name, mtime in files(tmp_path).items())


# --- what must not change the numbers ---------------------------------------------------------------------------------


def test_two_processes_give_the_bits_of_one(done, tmp_path):
    _, one, _ = done
    two, progress = trained(tiny(), tmp_path, jobs=2)
    assert_same(numbers(two), numbers(one))
    assert progress[-1].runs_finished == 8


def test_the_order_of_the_grid_does_not_change_the_numbers(done, tmp_path):
    _, one, _ = done
    other, _ = trained(tiny(widths=(32, 16)), tmp_path / "a", jobs=1)
    assert_same(numbers(other), numbers(one))
    # here replicas trade places within a group, which may round a product differently
    shuffled = {"widths": (32, 16), "parametrizations": ("gdn-mup", "sp"), "lrs": (2.0**-6, 2.0**-8)}
    other, _ = trained(tiny(**shuffled), tmp_path / "b", jobs=1)
    assert_same(numbers(other), numbers(one), rtol=1e-5)


def test_a_diverged_run_is_recorded_and_its_neighbours_are_as_without_it(tmp_path):
    def sweep(name, *lrs):
        return tiny(name=name, widths=(16,), parametrizations=("gdn-mup",), lrs=lrs, steps=8)

    # the same number of replicas, so the same bits
    beside, _ = trained(sweep("beside", 2.0**-8, 1e30, 2.0**-6), tmp_path, jobs=1)
    alone, _ = trained(sweep("alone", 2.0**-8, 2.0**-7, 2.0**-6), tmp_path, jobs=1)
    sick = beside.runs[beside.runs["lr"] == 1e30].iloc[0]
    assert sick["status"] == "diverged"
    assert sick["diverged_step"] == 1
    assert "not finite" in sick["reason"]
    assert np.isnan(sick["val_loss"])
    assert not np.isfinite(sick["train_loss"])
    steps = beside.steps[beside.steps["run_id"] == sick["run_id"]]
    assert steps["step"].tolist() == [0, 1]  # what comes after it was frozen is no measurement
    well = set(beside.runs["run_id"]) & set(alone.runs["run_id"])
    assert len(well) == 2
    for results in (beside, alone):
        results.runs["sweep"] = ""
    assert_same(numbers(beside, well), numbers(alone, well))
    healthy = beside.runs[beside.runs["run_id"].isin(well)]
    assert set(healthy["status"]) == {"ok"}
    assert healthy["reason"].isna().all()
    # a diverged run is a result: it is not trained again
    assert plan_sweep(sweep("beside", 2.0**-8, 1e30, 2.0**-6), out=tmp_path).missing == 0


def test_a_sweep_of_nothing_but_divergence_ends_well(tmp_path):
    results, _ = trained(tiny_coord(widths=(16,), lrs=(1e30,)), tmp_path, jobs=1)
    assert set(results.runs["status"]) == {"diverged"}
    assert set(results.coords["step"]) == {0, 1}


def test_clipping_is_counted(tmp_path):
    always, _ = trained(tiny(widths=(16,), clip=1e-3), tmp_path / "a", jobs=1)
    never, _ = trained(tiny(widths=(16,), clip=1e9), tmp_path / "b", jobs=1)
    assert always.runs["clipped_fraction"].tolist() == [1.0] * 4
    assert never.runs["clipped_fraction"].tolist() == [0.0] * 4
