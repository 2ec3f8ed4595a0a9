"""mupcheck judge as a user meets it: a file, a pipe, codes, what is kept, and what plot and check make of that."""

import io
import sys

import numpy as np
import pandas as pd
import pytest
from commands import mupcheck

from mupcheck.cli import exits
from mupcheck.results.reading import load_results


@pytest.fixture
def losses(tmp_path):
    """A table whose best lr stays (still) or falls by an octave a doubling (moves), of three seeds."""
    rng = np.random.default_rng(0)
    rows = [
        {"scheme": scheme, "d_model": width, "lr": 2.0**x, "seed": seed, "loss": 3 + 0.1 * (x - best) ** 2}
        for scheme, drift in (("still", 0), ("moves", -1))
        for i, width in enumerate((64, 128, 256))
        for seed in range(3)
        for best in [-7 + drift * i + 0.05 * rng.normal()]
        for x in range(-12, -3)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "losses.csv", index=False)
    return tmp_path / "losses.csv"


def test_the_answer_is_on_stdout_and_how_it_was_read_on_stderr(losses):
    answer = mupcheck("judge", losses)
    assert answer.code == exits.OK
    assert answer.out.startswith("moves: the best lr of width 64 costs")
    assert answer.out.splitlines()[1].startswith("still: ") and answer.out.splitlines()[1].endswith(": transfers")
    assert "still (" not in answer.out and "moves: drifts" in answer.out
    whole = mupcheck("judge", losses, "--all").out
    assert "still (" not in whole and "still: transfers" in whole and "nats lost at" in whole
    assert "width from d_model, lr from lr, loss from loss" in answer.err
    # no option of a command that did not measure it
    assert "--" not in answer.out.replace("--all", "") and "--" not in whole


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), exits.OK),
        (("--where", "scheme=still", "--expect", "transfers"), exits.OK),
        (("--where", "scheme=moves", "--expect", "transfers"), exits.FAILED),
        (("--where", "scheme=moves", "--cost", "1"), exits.FAILED),
        (("--where", "scheme=still", "--cost", "1"), exits.OK),
        (("--where", "seed=0"), exits.CANNOT_TELL),
        (("--where", "seed=0", "--strict"), exits.FAILED),
        (("--where", "seed=9"), exits.USAGE),
        (("--kind", "sizes"), exits.USAGE),
        (("--kind", "nonsense"), exits.USAGE),
        (("--columns", "width"), exits.USAGE),
        (("--columns", "breadth=d_model"), exits.USAGE),
        (("--columns", "width=breadth"), exits.USAGE),
        (("--require", "*=0"), exits.USAGE),
        (("--expect", "pass"), exits.USAGE),
        (("--name", "a/b"), exits.USAGE),
    ],
)
def test_exit_codes(losses, options, code):
    answer = mupcheck("judge", losses, *options)
    assert answer.code == code, answer.err
    if code == exits.USAGE:
        assert answer.out == ""
        assert len(answer.err.splitlines()) == 1
        assert answer.err.startswith("error: ")


def test_what_is_kept_is_what_plot_and_check_read(losses, tmp_path):
    asked = mupcheck("judge", losses, "--json")
    kept = mupcheck("judge", losses, "--json", "--out", "results", "--name", "theirs")
    assert kept.code == asked.code == exits.OK
    for one, other in zip(asked.json, kept.json, strict=True):
        assert one | {"sweep": ""} | {"optima": 0, "planned_runs": 0} == (
            other | {"sweep": ""} | {"optima": 0, "planned_runs": 0}
        )
    folder = tmp_path / "results" / "theirs"
    runs = load_results(folder).runs
    assert len(runs) == 2 * 3 * 3 * 9
    # nothing is made up: what the table did not say is null
    said = {"schema_version", "run_id", "sweep", "kind", "parametrization", "optimizer", "mode", "width", "seed", "lr"}
    said |= {"log2_lr", "status", "train_loss", "steps_sha256", "row_sha256"}
    assert {name for name in runs if runs[name].notna().any()} == said
    assert set(runs["optimizer"]) == set(runs["mode"]) == {"unknown"}
    checked = mupcheck("check", folder)
    assert checked.code == exits.OK
    assert "moves: drifts" in checked.out
    assert mupcheck("check", "results", "--expect", "transfers").code == exits.FAILED
    drawn = mupcheck("plot", folder)
    assert drawn.code == exits.OK, drawn.err
    assert "loss_vs_lr.png" in drawn.out
    # the same again takes its place, and another table too
    assert mupcheck("judge", losses, "--out", "results", "--name", "theirs", "--where", "scheme=still").code == exits.OK
    assert set(load_results(folder).runs["parametrization"]) == {"still"}


def test_a_folder_half_written_says_that_runs_are_missing(losses, tmp_path):
    assert mupcheck("judge", losses, "--out", "results").code == exits.OK
    next((tmp_path / "results" / "losses" / "runs").iterdir()).unlink()
    checked = mupcheck("check", "results/losses")
    assert checked.code == exits.CANNOT_TELL
    assert "1 of 162 runs of losses is missing" in checked.out


def test_a_bad_table_leaves_nothing_behind(losses, tmp_path):
    losses.write_text(losses.read_text().replace("\nmoves,256", "\nmoves,huge", 1))
    answer = mupcheck("judge", losses, "--out", "results")
    assert answer.code == exits.USAGE
    assert "'huge' is not a number" in answer.err
    assert not (tmp_path / "results").exists()


def test_a_sweep_of_our_own_is_not_written_over(losses, copied):
    answer = mupcheck("judge", losses, "--out", copied / "results", "--name", "lr")
    assert answer.code == exits.USAGE
    assert "holds a sweep that mupcheck trained; give another --name" in answer.err


def test_a_pipe_is_a_file(losses, monkeypatch):
    class Pipe:
        buffer = io.BytesIO(losses.read_bytes())

    asked = mupcheck("judge", losses, "--name", "x")
    monkeypatch.setattr(sys, "stdin", Pipe())
    piped = mupcheck("judge", "-", "--name", "x")
    assert (piped.code, piped.out) == (asked.code, asked.out)
    assert piped.err.startswith("standard input: 162 rows")


def test_sizes_are_kept_and_drawn_and_have_a_baseline(tmp_path):
    rows = [
        {"width": w, "seed": s, "step": t, "kind": "effective_update", "name": f"layers.{i}.fc", "value": 1 + 0.01 * s}
        for w in (64, 128, 256) for s in range(3) for t in (1, 2) for i in range(2)
    ]  # fmt: skip
    pd.DataFrame(rows).to_json(tmp_path / "sizes.jsonl", orient="records", lines=True)
    answer = mupcheck("judge", tmp_path / "sizes.jsonl", "--out", "results")
    assert answer.code == exits.OK, answer.out
    assert "sizes: pass" in answer.out
    assert mupcheck("judge", tmp_path / "sizes.jsonl", "--json").json["summary"][0]["verdict"] == "pass"
    assert mupcheck("judge", tmp_path / "sizes.jsonl", "--cost", "1").code == exits.USAGE
    drawn = mupcheck("plot", "results/sizes")
    assert drawn.code == exits.OK, drawn.err
    assert "slopes_unnamed.png" in drawn.out
    gate = ("check", "results/sizes", "--baseline", "gate.txt")
    assert mupcheck(*gate, "--update-baseline").code == exits.OK
    assert "1 same" in mupcheck(*gate).out
    # a parameter whose change grows with width fails against theory and against the baseline
    table = pd.DataFrame(rows)
    table.assign(value=table["value"] * table["width"]).to_json(tmp_path / "sizes.jsonl", orient="records", lines=True)
    assert mupcheck("judge", tmp_path / "sizes.jsonl", "--out", "results").code == exits.FAILED
    checked = mupcheck(*gate)
    assert checked.code == exits.FAILED
    assert "1 drifted" in checked.out or "drifted from gate.txt" in checked.out
