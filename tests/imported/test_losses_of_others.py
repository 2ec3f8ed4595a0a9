"""Losses that others measured get the answer that mupcheck's own runs get, or a refusal that says what is missing."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_curves import diverge, sweep

from mupcheck.imported.read import read_tables
from mupcheck.imported.wide import said_in
from mupcheck.learning_rates.drift import transfer

WANDB = {
    "width": "config.d_model",
    "lr": "config.lr",
    "seed": "config.seed",
    "val_loss": "eval/loss",
    "parametrization": "config.parametrization",
}


def of(path, name="s", **options):
    """The answers on a file."""
    return transfer(read_tables([path], name=name, **options).results)


def own(**options):
    """A sweep of ours with one parametrization that drifts and one that does not."""
    still, moves = sweep(0.0, **options), sweep(-0.8, **options).assign(parametrization="q")
    runs = pd.concat([still, moves], ignore_index=True)
    return runs.assign(run_id=[f"run{i}" for i in range(len(runs))], lr=2.0 ** runs["log2_lr"])


@pytest.fixture
def exported(tmp_path):
    """Our sweep, and the same as a table of runs with W&B's names, in any order, a diverged run as NaN."""
    runs = own()
    diverge(runs, (runs["log2_lr"] == runs["log2_lr"].max()) & (runs["seed"] == 1))
    table = runs[list(WANDB)].rename(columns=WANDB)
    table["Name"], table["Runtime"], table["Notes"] = runs["run_id"], 12.5, "a, b"
    table["State"] = "finished"
    table.loc[runs["status"] == "diverged", "eval/loss"] = np.nan
    table = table.sample(frac=1, random_state=0)
    table.to_csv(tmp_path / "export.csv", index=False, na_rep="NaN")
    return runs, table, tmp_path


def same(one, other):
    """Whether two answers agree to the last bit in all that is read off the losses."""
    return (
        one.drift == other.drift
        and (one.verdict, one.reason) == (other.verdict, other.reason)
        and one.cost == other.cost
        and one.penalty == other.penalty
        and one.agreement == other.agreement
        and [(o.log2_lr, o.ci_low, o.ci_high, o.loss, o.flags, o.curve) for o in one.optima]
        == [(o.log2_lr, o.ci_low, o.ci_high, o.loss, o.flags, o.curve) for o in other.optima]
    )


def test_an_export_under_other_names_gets_the_same_answer_to_the_last_bit(exported):
    runs, _, folder = exported
    ours, theirs = transfer(runs), of(folder / "export.csv")
    assert [answer.verdict for answer in ours] == ["transfers", "drifts"]
    assert all(same(one, other) for one, other in zip(ours, theirs, strict=True))


def test_another_loss_is_another_answer(exported):
    runs, table, folder = exported
    table.assign(**{"eval/loss": table["eval/loss"] * 1.001}).to_csv(folder / "other.csv", index=False, na_rep="NaN")
    assert not any(same(*pair) for pair in zip(transfer(runs), of(folder / "other.csv"), strict=True))


@pytest.mark.parametrize("form", ["jsonl", "nested", "parquet", "semicolons", "utf16", "log2", "frame"])
def test_every_form_of_a_table_gets_the_same_answer(exported, form):
    runs, table, folder = exported
    path = folder / f"table.{form}"
    if form == "jsonl":
        # by hand: pandas writes NaN as null, which is a loss that is not there
        rows = table.drop(columns="Notes").to_dict("records")
        path.write_text("\n".join(repr(row).replace("'", '"').replace("nan", "NaN") for row in rows))
    elif form == "nested":
        rows = table[["config.d_model", "config.lr", "config.seed", "config.parametrization", "eval/loss"]].to_dict(
            "records"
        )
        nested = [
            {
                "config": {k[7:]: v for k, v in row.items() if k.startswith("config.")},
                "eval": {"loss": row["eval/loss"]},
            }
            for row in rows
        ]
        path.write_text("\n".join(repr(row).replace("'", '"').replace("nan", "NaN") for row in nested))
    elif form == "parquet":
        # pandas writes NaN as null, which is a loss that is not there
        columns = {name: pa.array(table[name].to_numpy(), from_pandas=False) for name in table}
        pq.write_table(pa.table(columns), path)
    elif form == "semicolons":
        table.to_csv(path, sep=";", decimal=",", index=False, na_rep="NaN")
    elif form == "utf16":
        table.to_csv(path, sep="\t", encoding="utf-16", index=False, na_rep="NaN")
    elif form == "log2":
        table.assign(**{"log2(lr)": np.log2(table["config.lr"])}).drop(columns="config.lr").to_csv(
            path, index=False, na_rep="NaN"
        )
    answers = transfer(table) if form == "frame" else of(path)
    assert all(same(*pair) for pair in zip(transfer(runs), answers, strict=True))


def test_columns_that_nobody_uses_are_named_by_the_user(exported):
    runs, table, folder = exported
    table.rename(columns={"config.d_model": "breite", "eval/loss": "fehler", "config.lr": "rate"}).to_csv(
        folder / "de.csv", index=False, na_rep="NaN"
    )
    with pytest.raises(ValueError, match="no column for width and none for lr and loss; it has breite"):
        of(folder / "de.csv")
    answers = of(folder / "de.csv", columns={"width": "breite", "val_loss": "fehler", "lr": "rate"})
    assert all(same(*pair) for pair in zip(transfer(runs), answers, strict=True))


def test_a_log_is_read_at_the_last_step_that_has_a_loss(exported):
    runs, table, folder = exported
    end = table.assign(_step=90)
    early, late = end.assign(_step=30, **{"eval/loss": 9.0}), end.assign(_step=99, **{"eval/loss": None})
    log = pd.concat([late, end, early]).sample(frac=1, random_state=1)
    log["eval/loss"] = [
        "" if step == 99 else repr(loss)
        for step, loss in zip(log["_step"], log["eval/loss"].astype(float), strict=True)
    ]
    log.to_csv(folder / "log.csv", index=False)
    imported = read_tables([folder / "log.csv"], name="s")
    answers = transfer(imported.results)
    assert "at step 90, the last" in imported.said[0]
    assert answers[0].measured["steps"] == 90
    for one, other in zip(transfer(runs), answers, strict=True):
        assert (one.drift, one.cost.percent, one.verdict) == (other.drift, other.cost.percent, other.verdict)


def test_a_run_that_ends_early_is_left_out_and_said(exported):
    _, table, folder = exported
    log = pd.concat([table.assign(_step=step) for step in (10, 20)])
    name = table.loc[table["eval/loss"].notna(), "Name"].iloc[0]
    log = log[(log["Name"] != name) | (log["_step"] == 10)]
    log.to_csv(folder / "log.csv", index=False, na_rep="NaN")
    imported = read_tables([folder / "log.csv"], name="s")
    assert any("1 run ended before the others of the same width" in line for line in imported.said)
    assert (imported.results.runs["status"] == "failed").sum() == 1


def test_a_history_with_a_column_a_run_is_read_by_the_runs_names(tmp_path):
    runs = own()
    runs = runs[runs["parametrization"] == "p"]
    columns = {"Step": [0, 5]}
    for run in runs.itertuples():
        name = f"w{run.width}-lr{run.lr!r}-s{run.seed} - eval/loss"
        columns |= {key: [9.0, run.val_loss] for key in (name, f"{name}__MIN", f"{name}__MAX")}
    history = pd.DataFrame(columns)
    history.to_csv(tmp_path / "history.csv", index=False)
    (ours,), (theirs,) = transfer(runs.assign(parametrization="unnamed")), of(tmp_path / "history.csv")
    assert (ours.drift, ours.cost) == (theirs.drift, theirs.cost)
    history.columns = ["Step", *(f"happy-sun-{i} - eval/loss" for i in range(len(history.columns) - 1))]
    history.to_csv(tmp_path / "history.csv", index=False)
    with pytest.raises(ValueError, match="'happy-sun-0' does not say width and lr"):
        of(tmp_path / "history.csv")


def test_a_column_a_width_is_a_table_of_losses(tmp_path):
    rows = [
        "log2 lr,w=128,w=256,512",
        *(f"{x},{(x + 8) ** 2},{(x + 8) ** 2},{(x + 7) ** 2 + 1}" for x in range(-12, -4)),
    ]
    (tmp_path / "wide.csv").write_text("\n".join(rows))
    (answer,) = of(tmp_path / "wide.csv")
    assert [(optimum.width, round(optimum.log2_lr, 6)) for optimum in answer.optima] == [
        (128, -8),
        (256, -8),
        (512, -7),
    ]


def test_a_column_an_lr_is_a_table_of_losses(tmp_path):
    """The form of the tables in papers: a row a width."""
    (tmp_path / "paper.md").write_text(
        "| Width | 2^-10 | 2⁻⁸ | lr=0.015625 | 1/16 |\n|---|---|---|---|---|\n"
        "| 128 | 3.4 | 3.1 | 3.0 | 3.1 |\n| 512 | 3.3 | 3.0 | 2.9 | NaN |\n"
    )
    runs = read_tables([tmp_path / "paper.md"], name="s").results.runs.sort_values(["width", "log2_lr"])
    assert runs["log2_lr"].tolist() == [-10, -8, -6, -4] * 2
    assert runs["train_loss"].tolist()[:7] == [3.4, 3.1, 3.0, 3.1, 3.3, 3.0, 2.9]
    assert runs["status"].tolist() == ["ok"] * 7 + ["diverged"]


def test_one_seed_tells_the_optima_and_no_verdict(tmp_path):
    runs = own(seeds=1)
    runs[runs["parametrization"] == "q"][["width", "lr", "val_loss"]].to_csv(tmp_path / "one.csv", index=False)
    imported = read_tables([tmp_path / "one.csv"], name="one")
    (answer,) = transfer(imported.results)
    assert answer.verdict == answer.cost.verdict == "cannot tell"
    assert "one seed does not show the noise" in answer.reason
    assert imported.said[-1] == "no column seed: one seed, whose noise is not known"
    assert answer.drift.slope == pytest.approx(-0.8, abs=0.3)  # the noise of a seed is 0.1 octaves a width
    assert (answer.drift.ci_low, answer.drift.ci_high) == (None, None)
    assert all(optimum.log2_lr is not None for optimum in answer.optima)
    assert "--" not in answer.next_step and "seeds" in answer.next_step


def test_what_is_not_said_is_not_known():
    (answer,) = transfer(own()[["width", "lr", "val_loss", "seed"]].iloc[: len(own()) // 2])
    assert (answer.base_width, answer.optimizer, answer.mode, answer.parametrization) == (
        *(None, "unknown", "unknown", "unnamed"),
    )
    known = {name for name, value in answer.measured.items() if value not in (None, (), "")}
    assert known == {"widths", "seeds", "lrs", "confidence", "added_lrs"}
    assert "None" not in answer.how_measured and "nan" not in answer.how_measured.lower()
    assert answer.title == answer.sweep == "frame"


def test_a_run_that_was_started_again_counts_once(exported):
    runs, table, folder = exported
    crashed = table.head(5).assign(State="crashed", **{"eval/loss": 7.0}, Name="again")
    pd.concat([crashed, table]).to_csv(folder / "again.csv", index=False, na_rep="NaN")
    imported = read_tables([folder / "again.csv"], name="s")
    assert any("5 runs that did not finish left out" in line for line in imported.said)
    assert all(same(*pair) for pair in zip(transfer(runs), transfer(imported.results), strict=True))


def test_files_are_told_apart_by_their_names(exported):
    runs, table, folder = exported
    for name, group in table.groupby("config.parametrization"):
        group.drop(columns="config.parametrization").to_csv(folder / f"{name}.csv", index=False, na_rep="NaN")
    files = [folder / "p.csv", folder / "q.csv"]
    with pytest.raises(ValueError, match="say what the files are: --columns parametrization=FILE"):
        read_tables(files, name="s")
    answers = transfer(read_tables(files, name="s", columns={"parametrization": "FILE"}).results)
    assert all(same(*pair) for pair in zip(transfer(runs), answers, strict=True))


def test_a_setting_that_differs_is_refused_and_one_value_can_be_taken(exported):
    runs, table, folder = exported
    other = table.assign(**{"config.weight_decay": 0.1})
    pd.concat([table.assign(**{"config.weight_decay": 0.0}), other]).to_csv(
        folder / "two.csv", index=False, na_rep="NaN"
    )
    with pytest.raises(
        ValueError, match=r"rows \d+ and \d+ are both width .*config.weight_decay|differ in config.weight_decay"
    ):
        of(folder / "two.csv")
    answers = of(folder / "two.csv", where={"config.weight_decay": "0.1"})
    assert all(one.drift == other.drift for one, other in zip(transfer(runs), answers, strict=True))


def test_a_setting_that_changes_with_width_alone_is_said(exported):
    _, table, folder = exported
    table.assign(max_steps=table["config.d_model"] * 10).to_csv(folder / "ladder.csv", index=False, na_rep="NaN")
    imported = read_tables([folder / "ladder.csv"], name="s")
    assert any(line.startswith("steps changes with width (320 at 32 and 1280 at 128)") for line in imported.said)


def test_runs_that_are_missing_are_said_and_break_nothing(exported):
    """A loss that is not there leaves a lr without one of its seeds: the verdict waits, the rest is told."""
    _, table, folder = exported
    table.to_csv(folder / "holes.csv", index=False)  # NaN as nothing
    imported = read_tables([folder / "holes.csv"], name="s")
    answers = transfer(imported.results)
    assert {answer.verdict for answer in answers} == {"cannot tell"}
    assert all("runs are missing" in answer.reason for answer in answers)
    assert any(
        "without a loss left out" in line and "write nan for one that diverged" in line for line in imported.said
    )


def test_the_export_of_wandbs_own_example_holds_dicts(exported):
    runs, table, folder = exported
    rows = [
        {
            "summary": {"eval/loss": float(row["eval/loss"]), "_step": 60, "grads": {"w": [1, 2]}},
            "config": {"d_model": row["config.d_model"], "lr": row["config.lr"], "seed": row["config.seed"]}
            | {"parametrization": row["config.parametrization"], "betas": [0.9, 0.95], "note": "it's nan, or so"},
            "name": f"run-{i % 5}",  # names need not be unique
        }
        for i, row in enumerate(table.to_dict("records"))
    ]
    pd.DataFrame(rows).to_csv(folder / "project.csv")
    assert "nan" in (folder / "project.csv").read_text()
    answers = of(folder / "project.csv")
    for one, other in zip(transfer(runs), answers, strict=True):
        assert (one.drift, one.cost, one.verdict) == (other.drift, other.cost, other.verdict)
    broken = (folder / "project.csv").read_text().splitlines()
    broken[3] = broken[3].replace("'d_model'", "d_model'", 1)
    (folder / "project.csv").write_text("\n".join(broken))
    with pytest.raises(ValueError, match=r"row 4, column 'config': .* is no dict"):
        of(folder / "project.csv")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("w128-lr0.001-s1", {"width": "128", "lr": "0.001", "seed": "1"}),
        ("d_model=128,lr=1e-3,seed=0", {"width": "128", "lr": "1e-3", "seed": "0"}),
        ("mup_width_64_lr_2^-9", {"width": "64", "lr": "2^-9"}),
        ("lr: 0.001, hidden_size: 256", {"width": "256", "lr": "0.001"}),
        ("happy-sun-3", {}),
        ("adamw-128", {}),
        ("steps1000", {}),
    ],
)
def test_a_runs_name_says_what_it_is_or_nothing(name, said):
    assert said_in(name) == said


def test_an_lr_that_not_all_widths_have_is_no_missing_run():
    """Whoever measured elsewhere planned other lrs at other widths: only what all have is asked of each."""
    runs = own()
    runs = runs[
        (runs["parametrization"] == "p") & ~((runs["width"] == 32) & (runs["log2_lr"] == runs["log2_lr"].max()))
    ]
    (ours,) = transfer(runs)
    (theirs,) = transfer(runs[["width", "lr", "val_loss", "seed"]])
    assert (ours.verdict, theirs.verdict) == ("cannot tell", "transfers")
    assert "runs are missing" in ours.reason
    assert ours.drift == theirs.drift


@pytest.mark.parametrize("centre", [-20.0, 5.0])
def test_where_the_best_lr_is_at_an_edge_lrs_further_out_are_asked_for_not_finer_ones(centre):
    runs = sweep(centre=centre)
    (answer,) = transfer(runs.assign(lr=2.0 ** runs["log2_lr"])[["width", "lr", "val_loss", "seed"]])
    assert answer.next_step == "measure lrs further out (so that the loss rises on both sides)"
