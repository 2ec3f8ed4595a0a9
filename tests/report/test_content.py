"""What a page holds: every number is an answer's, hostile text is text, and half a sweep is still a page."""

import json
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from planted_curves import noisy_beyond
from planted_figures import planted_coords, planted_lrs, results
from planted_gates import planted

from mupcheck.coordinates.gates import fit_gates
from mupcheck.coordinates.judge import judge
from mupcheck.gate.check import check_results
from mupcheck.learning_rates.drift import transfer
from mupcheck.report import content, report, write_report
from mupcheck.report.charts import span
from mupcheck.report.content import sections_of
from mupcheck.report.rows import optimum_rows
from mupcheck.report.tables import gates_grid, rules_grid
from mupcheck.results.reading import Results
from mupcheck.terminal.transfer_page import print_answers, print_transfer
from mupcheck.theory.parametrization import TABLES, rules_hash
from mupcheck.theory.required import OWN

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u2028=1+1"


class Text(HTMLParser):
    """The tags and the text of a page, and its embedded charts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.inside = [], [], []
        self.charts = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self.inside and self.inside[-1] == ("script", "charts"):
            self.charts += data
        elif not self.inside or self.inside[-1][0] not in ("script", "style"):
            self.text.append(data)


def parsed(of: Results):
    page = Text(report(of, title="a page"))
    return page, {chart["name"]: chart for chart in json.loads(page.charts)}


def one(charts, part):
    (found,) = [chart for name, chart in charts.items() if part in name]
    return found


@pytest.fixture(scope="module")
def lrs():
    runs = planted_lrs(-0.9, names=("sp",))
    return results(runs, planted_lrs(names=("gdn-mup",)), coords=planted_coords()[1][:0])


@pytest.mark.parametrize("sides", [(-1,), (1,), (-1, 1), ()])
def test_an_end_that_seeds_do_not_tell_is_drawn_to_the_end_of_the_grid(sides):
    runs = planted_lrs()
    for side in sides:
        runs = noisy_beyond(runs, 128, side)
    (answer,) = transfer(runs)
    _, charts = parsed(results(runs, coords=planted_coords()[1][:0]))
    optimum, row = answer.optima[2], one(charts, "losses-")["rows"]["optima"][2]
    assert [optimum.ci_low is None, optimum.ci_high is None] == [-1 in sides, 1 in sides]
    x = [point.log2_lr for point in optimum.curve]
    assert row["low"] == (x[0] if -1 in sides else optimum.ci_low)
    assert row["high"] == (x[-1] if 1 in sides else optimum.ci_high)


def test_an_optimum_without_an_interval_or_none_at_all_is_drawn_without_ends():
    one_seed = planted_lrs().query("seed == 0")
    dead = planted_lrs().assign(status=lambda runs: np.where(runs["width"] == 128, "diverged", "ok"))
    for runs, n_known in ((one_seed, 3), (dead, 2)):
        (answer,) = transfer(runs)
        assert [optimum.log2_lr is None for optimum in answer.optima].count(False) == n_known
        rows = optimum_rows(answer)
        for optimum, row in zip(answer.optima, rows, strict=True):
            if optimum.half_width is None:
                assert (row["low"], row["high"]) == (optimum.log2_lr, optimum.log2_lr)
                assert optimum.drawn == (None, None)
            else:
                assert (row["low"], row["high"]) == optimum.drawn == (optimum.ci_low, optimum.ci_high)
        assert any(row["half_width"] is None for row in rows)


def test_rows_are_the_answers_numbers(lrs):
    page, charts = parsed(lrs)
    for answer in transfer(lrs):
        chart = one(charts, f"losses-{answer.parametrization}")
        drawn = {(row["width"], row["log2_lr"]): row["loss"] for row in chart["rows"]["curves"]}
        assert drawn == {(o.width, p.log2_lr): p.loss for o in answer.optima for p in o.curve}
        own = {row["width"]: row for row in chart["rows"]["optima"]}
        for optimum in answer.optima:
            row = own[optimum.width]
            assert (row["log2_lr"], row["ci_low"], row["ci_high"]) == (
                optimum.log2_lr,
                optimum.ci_low,
                optimum.ci_high,
            )
            shifted = [r["above"] for r in chart["rows"]["curves"] if r["width"] == optimum.width]
            assert shifted == [point.loss - optimum.loss for point in optimum.curve]
        costs = one(charts, f"penalty-{answer.parametrization}")["rows"]["penalties"]
        assert [(r["lr_of"], r["trained"], r["nats"]) for r in costs] == [
            (p.source, p.target, p.nats) for p in answer.penalty
        ]
        assert any(answer.sentence in text for text in page.text)
        assert any(text.endswith(f"cost: {answer.cost.verdict}") for text in page.text)
    verdicts = [text for text in page.text if text.strip("✓✗? ") in ("drifts", "transfers", "cannot tell")]
    assert [text[0] for text in verdicts] == ["✗", "✓"]  # sp first, and not by colour alone


@pytest.mark.parametrize(
    ("cost", "drift", "said"),
    [
        ("negligible", "", "train the wider ones with the best lr of width 32 (mupcheck recommend)"),
        (
            "negligible",
            "give 9 seeds",
            "train the wider ones with the best lr of width 32 (mupcheck recommend); to tell the drift, give 9 seeds",
        ),
        ("costly", "see which sizes change", "see which sizes change"),
        ("cannot tell", "", "to tell the cost, give 9 seeds"),
        ("cannot tell", "add lrs", "add lrs"),
        ("costly", "", ""),
    ],
)
def test_what_is_next_goes_by_the_cost_first_on_the_page_and_in_the_terminal(lrs, capsys, cost, drift, said):
    answer = transfer(lrs)[0]
    of = replace(answer.cost, verdict=cost, source=32, next_step="give 9 seeds")
    answer = replace(answer, verdict="drifts", cost=of, next_step=drift)
    assert answer.what_next == said
    assert content._answer(replace(check_results(lrs).groups[0], answer=answer)).next_step == said
    print_transfer(answer)
    lines = [line[8:] for line in capsys.readouterr().out.splitlines() if line.startswith("  next: ")]
    assert lines == list(filter(None, [said]))


@pytest.mark.parametrize("show", [print_transfer, partial(print_answers, every=False)], ids=["all", "in short"])
@pytest.mark.parametrize(
    ("verdict", "drift", "times"), [("transfers", "", 1), ("cannot tell", "", 1), ("cannot tell", "give 9 seeds", 1)]
)
def test_what_decides_the_cost_is_said_once_whatever_the_drift(lrs, capsys, show, verdict, drift, times):
    answer = transfer(lrs)[0]
    of = replace(answer.cost, verdict="cannot tell", reason="it may be much", next_step="give 9 seeds")
    answer = replace(answer, verdict=verdict, reason="why", cost=of, next_step=drift)
    show(answer if show is print_transfer else [answer])
    assert capsys.readouterr().out.count("give 9 seeds") == times


def test_a_model_of_others_is_not_sent_to_a_command_that_does_not_know_it(lrs):
    answer = transfer(lrs)[0]
    answer = replace(answer, cost=replace(answer.cost, verdict="negligible"))
    others = (replace(answer, mode=OWN), replace(answer, measured=answer.measured | {"device": ()}))
    assert "mupcheck recommend" in answer.what_next
    assert not any("mupcheck" in each.what_next for each in others)


def test_runs_that_are_missing_are_said_whatever_the_verdict(lrs):
    wanted = [*lrs.runs["run_id"], "0123456789abcdef"]
    page, _ = parsed(replace(lrs, sweeps={"lrs": {"run_ids": wanted}}))
    said = page.text[page.text.index("Not finished:") + 1]
    assert "1 of 145 runs of lrs is missing" in said, "above the answers, and not in the ledger alone"
    assert "Not finished:" not in parsed(lrs)[0].text


def test_the_line_of_a_drift_goes_where_the_fit_placed_it(lrs):
    rows = one(parsed(lrs)[1], "optima")["rows"]["drifts"]
    for answer in transfer(lrs):
        (low, high) = [row for row in rows if row["parametrization"] == answer.parametrization]
        slope = (high["log2_lr"] - low["log2_lr"]) / np.log2(high["width"] / low["width"])
        assert slope == pytest.approx(answer.drift.slope)


def test_slopes_are_those_of_the_judge():
    runs, coords = planted_coords(0.6)
    of = results(runs, coords=coords)
    (judgement,) = judge(of)
    _, charts = parsed(of)
    drawn = one(charts, "slopes-")["rows"]["slopes"]
    assert [row["slope"] for row in drawn] == pytest.approx(judgement.pooled["slope"].tolist(), rel=1e-5)
    assert [row["verdict"] for row in drawn] == judgement.pooled["verdict"].tolist()
    for row, (_, slope) in zip(drawn, judgement.pooled.iterrows(), strict=True):
        for name, end in (("low", slope["required_low"]), ("high", slope["required_high"])):
            side = slope["tolerance"] * (1 if name == "high" else -1)
            known = row[f"band_{name}"] is not None
            assert known == (not np.isnan(end))
            assert not known or np.isinf(end) or row[f"band_{name}"] == pytest.approx(end + side)
    # what is required from one side only is a band that ends with the chart
    ends = [row["ci_low"] for row in drawn] + [row["band_low"] for row in drawn if row["band_low"] is not None]
    one_sided = [row for row in drawn if row["required_low"] is None and row["required_high"] is not None]
    assert one_sided and all(row["band_low"] == min(ends) for row in one_sided)
    assert len(one(charts, "layers-")["rows"]["layers"]) == len(judgement.slopes)


def test_hostile_names_and_paths_are_text():
    runs = planted_lrs(names=("gdn-mup",)).assign(parametrization=HOSTILE, data=HOSTILE)
    plain, _ = parsed(results(planted_lrs(names=("gdn-mup",)), coords=planted_coords()[1][:0]))
    page, charts = parsed(results(runs, coords=planted_coords()[1][:0]))
    assert page.tags == plain.tags  # no tag more
    assert any(HOSTILE in text for text in page.text)
    chart = one(charts, "losses")
    both = results(
        runs, runs.assign(parametrization=f"{HOSTILE}+", run_id=runs["run_id"] + "+"), coords=planted_coords()[1][:0]
    )
    assert len(parsed(both)[1]) == 1 + 2 * 2, "names that only characters part which a file cannot have stay two"
    assert HOSTILE in chart["title"] and re.fullmatch(r"[A-Za-z0-9._-]+", chart["name"])


def diverge(runs):
    return runs.assign(status="diverged", val_loss=np.nan, train_loss=np.nan)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (planted_lrs(widths=(32,)), "cannot tell"),
        (planted_lrs().query("log2_lr == -6"), "cannot tell"),
        (diverge(planted_lrs()), "cannot tell"),
        (planted_lrs(seeds=1), "cannot tell"),
    ],
    ids=["one width", "one lr", "all diverged", "one seed"],
)
def test_what_says_little_is_a_page_that_says_so(runs, said):
    page, charts = parsed(results(runs, coords=planted_coords()[1][:0]))
    assert any(said in text for text in page.text)
    assert one(charts, "losses")["rows"]["curves"]


def test_a_check_of_one_width_draws_nothing_and_says_why():
    runs, coords = planted_coords(widths=(32,))
    page, charts = parsed(results(runs, coords=coords))
    assert charts == {} and any("nothing to draw" in text for text in page.text)
    with pytest.raises(ValueError, match="nothing to judge"):
        parsed(results(runs.assign(kind="other"), coords=coords))


def test_diverged_runs_have_their_line_above_all_losses():
    runs = planted_lrs()
    gone = (runs["log2_lr"] == -3) & (runs["width"] > 32)
    runs.loc[gone, ["status", "val_loss", "train_loss"]] = ["diverged", np.nan, np.nan]
    chart = one(parsed(results(runs, coords=planted_coords()[1][:0]))[1], "losses")
    lost, seeds = chart["rows"]["lost"], chart["rows"]["seeds"]
    assert sorted({row["width"] for row in lost}) == [64, 128]
    for name in ("loss", "above"):
        assert min(row[name] for row in lost) > max(row[name] for row in seeds)
        assert len({row[name] for row in lost}) == 2  # a line for each width


def test_sections_follow_the_gate(lrs):
    sections = sections_of(check_results(lrs), lrs)
    assert [(section.kind, [answer.name for answer in section.answers]) for section in sections] == [
        ("lr", ["sp", "gdn-mup"])
    ]
    facts = dict(sections[0].facts)
    assert facts["data hash"] == "d" and facts["torch"] == "2.13.0" and "3 seeds" in facts["measured"]


def test_rules_stand_side_by_side_and_what_differs_is_marked():
    runs = planted_lrs(names=("sp", "gdn-mup"))
    for name in ("sp", "gdn-mup"):
        own = rules_hash(TABLES[name], optimizer="adamw", mode="head-dim")
        runs.loc[runs["parametrization"] == name, "rules_hash"] = own
    grid = rules_grid(runs, {}, ["sp", "gdn-mup"])
    lines = {row[0]: row[1:] for row in grid.rows}
    assert grid.head == ("of", "sp", "gdn-mup", "")
    assert lines["hidden, lr"] == ("0", "-1", "differs") and lines["hidden, init std"] == ("0", "-1/2", "differs")
    assert lines["multiplier on logits"] == ("0", "-1", "differs")
    assert {i for i, row in enumerate(grid.rows) if row[1] != row[2]} == grid.marked
    assert not any(set(row[1:3]) == {"0"} for row in grid.rows)
    # rules that nobody knows, as of a model of a user's own, are no table
    assert rules_grid(runs.assign(rules_hash="other"), {}, ["sp", "gdn-mup"]) is None


def test_gates_are_those_that_were_measured():
    runs, coords = planted(-0.5)
    grid, told = gates_grid(runs, coords), fit_gates(runs, coords, pooled=True)
    assert [row[2] for row in grid.rows] == ["later" if gate.step else "0" for gate in told]
    assert {row[2] for row in grid.rows} == {"0", "later"}
    assert [row[4] for row in grid.rows] == [gate.reading for gate in told] and len(told) > 1
    assert all(row[3].startswith(f"{gate.slope:+.2f} [") for row, gate in zip(grid.rows, told, strict=True))
    assert gates_grid(runs, coords[~coords["site"].isin(("z_alpha", "z_beta"))]) is None
    assert gates_grid(runs, coords[:0]) is None


def test_axes_hold_all_values():
    assert span([1.0, 2.0], least=0.1) == pytest.approx((0.95, 2.05))
    low, high = span([1.0, 1.01], least=0.5)
    assert high - low >= 0.5 and low < 1.0 < 1.01 < high
    assert span([1.0, 2.0], least=0.1, above=0.2)[1] > 2.2
    assert span([], least=0.1) == pytest.approx((-0.05, 1.05))


def test_a_page_is_a_file_of_the_folder_or_the_one_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        write_report(tmp_path / "none")
