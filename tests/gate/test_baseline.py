"""A baseline reads back as it was written, says what is wrong with a file that is none, and depends on no machine."""

from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from planted_checks import EFFECTIVE, FREE, RESIDUAL, RIGHT, plant

from mupcheck.coordinates.judge import judge
from mupcheck.gate.baseline import baseline_text, read_baseline, required_text, store, write_baseline


def stored(**changes):
    (judgement,) = judge(plant(**changes))
    return store(judgement)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "baseline.txt"
    write_baseline(path, [stored(), stored(parametrization="sp", rules_hash="ef56")])
    return path


def test_what_is_written_is_read(file):
    groups = [stored(), stored(parametrization="sp", rules_hash="ef56")]
    read = read_baseline(file)
    assert [each.group for each in read] == [each.group for each in groups]
    for mine, theirs in zip(groups, read, strict=True):
        assert {key: replace(entry, line=0) for key, entry in theirs.entries.items()} == mine.entries
        assert replace(theirs, entries={}) == replace(mine, entries={})
    lines = file.read_text().splitlines()
    for entry in read[1].entries.values():
        assert lines[entry.line - 1].split()[:4] == list(entry.key)
    write_baseline(file, read)
    assert file.read_text().splitlines() == lines


def test_it_reads_well(file):
    text = file.read_text()
    assert text.startswith("mupcheck baseline 1\n#")
    assert text.count("[sweep s]\n") == 1, "what two tables share is said once"
    for line in ("widths = 32, 64, 128, 256", "seeds = 0, 1, 2, 3", "record = 0, 1", "lr = 0.000244140625",
                 "momentum = none", "tied = false", "data = synthetic", "optimizer = adamw"):  # fmt: skip
        assert f"\n{line}\n" in text
    (line,) = {line for line in text.splitlines() if line.startswith("effective_update")}
    assert line.split()[:4] == [*EFFECTIVE, "later"]
    assert line.endswith("0        pass")
    slopes = [line for line in text.splitlines() if line.startswith(("activation", "effective_update"))]
    assert len(slopes) == 2 * 3
    assert len({len(line.partition("]")[0]) for line in slopes}) == 1, "columns stand below each other"


def test_what_is_judged_is_kept_once():
    """A slope of which nothing is required is good to know and no line of a diff; mean_abs moves as rms does."""
    both = RIGHT | {("activation", "mean_abs", "residual", 1): 0.0, ("weight_update", "spectral", "q_proj", 1): 0.0}
    (judgement,) = judge(plant(both))
    verdicts = judgement.pooled.set_index(["stat", "site"])["verdict"]
    assert verdicts[*FREE[1:]] == "info" and verdicts["mean_abs", "residual"] == "pass"
    assert set(store(judgement).entries) == {
        (*RESIDUAL, "0"),
        (*RESIDUAL, "later"),
        (*EFFECTIVE, "later"),
        ("weight_update", "spectral", "q_proj", "later"),
    }


def test_order_and_machine_change_nothing(file):
    elsewhere = [
        stored(parametrization="sp", rules_hash="ef56", torch="3.0", device="another"),
        stored(torch="3.0", device="another"),
    ]
    here, there = (
        [line for line in text.splitlines() if not line.startswith("#")]
        for text in (file.read_text(), baseline_text(elsewhere))
    )
    assert here == there


def test_where_the_data_lie_is_not_in_it():
    text = baseline_text([stored(data="text:/home/someone/book.txt")])
    assert "data = text\n" in text and "someone" not in text


def test_a_slope_that_is_not_there_survives(tmp_path):
    results = plant()
    coords = results.coords
    coords.loc[coords["site"] == EFFECTIVE[2], "value"] = nan
    (judgement,) = judge(results)
    write_baseline(tmp_path / "b", [store(judgement)])
    (read,) = read_baseline(tmp_path / "b")
    entry = read.entries[*EFFECTIVE, "later"]
    assert isnan(entry.slope) and entry.verdict == "cannot tell"


def test_rounding_does_not_flip_the_sign_of_nothing():
    (judgement,) = judge(plant({(*EFFECTIVE, 1): 0.0, (*RESIDUAL, 0): 0.0}, noise=0.0))
    low = np.nextafter(0, -1)
    text = baseline_text(
        [store(replace(judgement, pooled=judgement.pooled.assign(slope=low, ci_low=low, ci_high=low)))]
    )
    assert "-0.000" not in text and "+0.000" in text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0, 0, "0"), (-0.5, 0, "-0.5..0"), (-np.inf, 0, "<=0"), (-1, -1, "-1")],
)
def test_what_is_required_has_no_spaces(low, high, text):
    assert required_text(low, high) == text


def cut_line(text):
    return "\n".join(text.splitlines()[:-1]) + "\n"


def twice(text):
    """Say that there is one more slope, and give one a second time."""
    before, _, after = text.rpartition("slopes = 3")
    return f"{before}slopes = 4{after}{text.splitlines()[-1]}\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: "", "is not a baseline of mupcheck: it is empty"),
        (lambda text: "hello\n" + text, "its first line is 'hello'"),
        (lambda text: text.replace("baseline 1", "baseline 2"), "is a baseline of format 2, this mupcheck reads 1"),
        (cut_line, "[parametrization sp] says rules_hash = ef56, verdict = pass, slopes = 3, and has 2"),
        (lambda text: text + text.splitlines()[-1] + "\n", "slopes = 3, and has 3 different slopes"),
        (twice, "slopes = 4, and has 3 different slopes"),
        (lambda text: text.replace("+0", "+O"), "is not KIND STAT SITE STEP SLOPE [LOW, HIGH] REQUIRED VERDICT"),
        (lambda text: text.replace(" 0     ", " soon "), "step 'soon'"),
        (lambda text: text.replace("  pass", "  fine"), "verdict 'fine'"),
        (lambda text: text.replace("  pass", "  info"), "verdict 'info'"),
        (lambda text: text.replace("[sweep s]", "<<<<<<< ours"), "'<<<<<<< ours' comes before any [sweep NAME]"),
        (lambda text: text.replace("mode = head-dim\n", ""), "does not say optimizer and mode"),
        (lambda text: text.replace("mode = head-dim\n", "mode\n"), "'mode' is not NAME = VALUE"),
        (lambda text: text.replace("[parametrization sp]", "[table sp]"), "neither [sweep NAME] nor"),
        (lambda text: text.replace("[parametrization sp]", "[parametrization gdn-mup]"), "is there twice"),
        (lambda text: text.replace("slopes = 3", "slopes = 4"), "slopes = 4, and has 3"),
        (lambda text: text.split("[sweep")[0], "it holds no [parametrization]"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_line_that_says_where(file, damage, said):
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match="baseline") as caught:
        read_baseline(file)
    message = str(caught.value)
    assert said in message and str(file) in message and "\n" not in message
    assert "--update-baseline" in message


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    for name, said in (("none", "does not exist"), ("binary", "not text"), (".", "Is a directory")):
        with pytest.raises(ValueError, match=said):
            read_baseline(tmp_path / name)


def test_names_may_look_like_the_format(tmp_path):
    names = ["a]b", "sweep x", "[c]", "d = 1", "# e", " f "]
    groups = [stored(parametrization=name) for name in names]
    write_baseline(tmp_path / "b", groups)
    assert {each.parametrization for each in read_baseline(tmp_path / "b")} == set(names)
