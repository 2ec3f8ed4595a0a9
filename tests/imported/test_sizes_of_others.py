"""Sizes that others measured have the slopes that mupcheck's own have, and are judged by what holds for any model."""

import numpy as np
import pandas as pd
import pytest
from planted_slopes import BAND, EFFECTIVE, FREE, RESIDUAL, make_coords, make_runs

from mupcheck.coordinates.judge import judge
from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.imported.read import read_tables

PLANTED = {RESIDUAL: 0.02, EFFECTIVE: 0.05, BAND: -0.3, FREE: -1.3, ("effective_update", "rms", "q_proj", 1, 1): 0.0}
NUMBERS = ["slope", "slope_stderr", "ci_low", "ci_high", "n_widths", "n_seeds"]
KEY = ["kind", "stat", "site", "layer", "step"]


def exported(runs, coords):
    """What our runs measured, as a table with other names."""
    table = coords.merge(runs[["run_id", "width", "seed", "optimizer", "mode", "tied"]], on="run_id")
    names = {"width": "config.hidden_size", "site": "module", "value": "rms"}
    return table.drop(columns="run_id").rename(columns=names).sample(frac=1, random_state=0)


def sizes(slopes, *, widths=(64, 128, 256), seeds=4, steps=(1, 2), noise=0.01):
    """A frame of effective updates of modules, each growing with its own power of width."""
    rng = np.random.default_rng(0)
    rows = [
        {"width": w, "seed": s, "step": t, "name": name, "kind": kind, "value": w**p * 2 ** (noise * rng.normal())}
        for (kind, name), p in slopes.items()
        for w in widths
        for s in range(seeds)
        for t in steps
    ]
    return pd.DataFrame(rows)


def judged(path, **options):
    (judgement,) = judge(read_tables([path], name="theirs", **options).results)
    return judgement


@pytest.mark.parametrize("pooled", [False, True])
def test_slopes_are_those_of_our_own_to_the_last_bit(tmp_path, pooled):
    runs = make_runs()
    coords = make_coords(runs, PLANTED, noise=0.3)
    exported(runs, coords).to_csv(tmp_path / "sizes.csv", index=False)
    ours = fit_slopes(runs, coords, pooled=pooled).sort_values(KEY)
    theirs = fit_slopes(read_tables([tmp_path / "sizes.csv"], name="s").results, pooled=pooled).sort_values(KEY)
    assert ours[NUMBERS].to_numpy().tolist() == theirs[NUMBERS].to_numpy().tolist()
    # the optimizer and the way to widen are there, so what is required of our sites is required of these
    assert ours["verdict"].tolist() == theirs["verdict"].tolist()
    assert theirs["implied"].isna().all()


def test_a_frame_has_the_slopes_of_the_tables():
    runs = make_runs()
    coords = make_coords(runs, PLANTED, noise=0.3)
    ours, theirs = (t.sort_values(KEY) for t in (fit_slopes(runs, coords), fit_slopes(exported(runs, coords))))
    assert ours[NUMBERS].to_numpy().tolist() == theirs[NUMBERS].to_numpy().tolist()


def test_effective_updates_are_judged_whatever_the_model(tmp_path):
    right = {("effective_update", f"layers.{i}.attn.qkv"): 0.0 for i in range(2)}
    wrong = {("effective_update", f"layers.{i}.mlp.fc"): 1.0 for i in range(2)}
    sizes(right).to_csv(tmp_path / "right.csv", index=False)
    sizes(right | wrong).to_csv(tmp_path / "wrong.csv", index=False)
    assert judged(tmp_path / "right.csv").verdict == "pass"
    failed = judged(tmp_path / "wrong.csv")
    assert failed.verdict == "fail"
    assert "layers.*.mlp.fc" in failed.reason
    assert failed.next_step.startswith("what layers.*.mlp.fc changes is too large by width^1: scale its lr by width^-1")
    assert failed.causes == ()
    assert sorted(set(failed.slopes["layer"])) == [0, 1]


def test_of_names_that_nobody_knows_nothing_is_required_but_what_the_user_says(tmp_path):
    table = sizes({("activation", "blocks.0.router"): 0.0, ("activation", "blocks.0.scan"): 0.5}, steps=(1,))
    table.to_csv(tmp_path / "t.csv", index=False)
    unjudged = judged(tmp_path / "t.csv")
    assert (unjudged.verdict, unjudged.reason) == ("cannot tell", "nothing is required of any of these sizes")
    assert unjudged.counts["info"] == 2
    assert judged(tmp_path / "t.csv", required={"*router": (0, 0)}).verdict == "pass"
    assert judged(tmp_path / "t.csv", required={"*": (0, 0)}).verdict == "fail"
    assert judged(tmp_path / "t.csv", required={"*": (0, 0), "*scan": (0.5, 0.5)}).verdict == "pass"


def test_what_all_models_share_is_required_by_its_name(tmp_path):
    sizes({("activation", "residual"): 0.5, ("activation", "gate"): 0.5}, steps=(1,)).to_csv(
        tmp_path / "t.csv", index=False
    )
    rows = judged(tmp_path / "t.csv").pooled.set_index("site")
    assert rows.loc["residual", "verdict"] == "fail"
    assert rows.loc["gate", "verdict"] == "info"  # of a model that has another gate it says nothing


def test_one_seed_shows_slopes_and_no_verdict(tmp_path):
    table = sizes({("effective_update", "q"): 1.0}, seeds=1).drop(columns="seed")
    table.to_csv(tmp_path / "t.csv", index=False)
    judgement = judged(tmp_path / "t.csv")
    assert judgement.verdict == "cannot tell"
    assert "one seed" in judgement.reason
    assert judgement.pooled["slope"].iloc[0] == pytest.approx(1.0, abs=0.05)  # the noise is 1% of a size
    assert "--" not in judgement.next_step


def test_two_widths_are_too_few(tmp_path):
    sizes({("effective_update", "q"): 0.0}, widths=(64, 128)).to_csv(tmp_path / "t.csv", index=False)
    judgement = judged(tmp_path / "t.csv")
    assert (judgement.verdict, "2 widths (64, 128)" in judgement.reason) == ("cannot tell", True)
    assert judgement.next_step == "measure at least 3, such as widths 64,128,256"


def test_what_mups_own_tool_writes_is_taken_for_activations(tmp_path):
    table = sizes({("x", "residual"): 0.0}).rename(columns={"name": "module", "step": "t", "value": "l1"})
    table.drop(columns="kind").assign(l2=1.0).drop(columns="l2").to_csv(tmp_path / "t.csv", index=False)
    imported = read_tables([tmp_path / "t.csv"], name="s")
    assert set(zip(imported.results.coords["kind"], imported.results.coords["stat"], strict=True)) == {
        ("activation", "mean_abs")
    }
    assert "sizes of modules are taken for activations" in imported.said


def test_no_column_step_is_said_and_an_update_is_after_a_step(tmp_path):
    sizes({("effective_update", "q"): 0.0}, steps=(1,)).drop(columns="step").to_csv(tmp_path / "t.csv", index=False)
    imported = read_tables([tmp_path / "t.csv"], name="s")
    assert "no column step: updates are of a step after 0" in imported.said
    assert judge(imported.results)[0].verdict == "pass"


def test_a_column_a_width_is_a_table_of_sizes(tmp_path):
    (tmp_path / "t.txt").write_text(
        "layer        w=64  w=128  w=256  spread\n"
        "layers.0.up  1.0   2.0    4.0    4.0x\n"
        "layers.1.up  1.0   2.0    4.0    4.0x\n"
        "head         2.0   2.0    2.0    1.0x\n"
    )
    slopes = fit_slopes(read_tables([tmp_path / "t.txt"], name="s").results)
    assert list(zip(slopes["site"], slopes["layer"], slopes["slope"].round(9), strict=True)) == [
        *(("head", -1, 0.0), ("layers.*.up", 0, 1.0), ("layers.*.up", 1, 1.0)),
    ]


def test_runs_that_differ_in_a_setting_within_a_run_are_refused(tmp_path):
    table = sizes({("effective_update", "q"): 0.0}).assign(lr=0.1)
    table.loc[3, "lr"] = 0.2
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"rows \d+ and 5 are of one run and differ in lr"):
        judged(tmp_path / "t.csv")


def test_runs_at_two_lrs_do_not_compare():
    table = sizes({("effective_update", "q"): 0.0})
    with pytest.raises(ValueError, match="differ in lr"):
        fit_slopes(table.assign(lr=np.where(table["width"] == 64, 0.1, 0.2)))
