"""The README's commands run as they stand, and what it quotes is what they print."""

import json
import re
import runpy
import shlex

import pytest
import typer
from commands import mupcheck
from PIL import Image
from quoted import LEFT_OUT, PICTURE, PICTURE_KEY, README, ROOT, Quote, missing_lines, quotes, renewed, same_line

from mupcheck import load_results, transfer
from mupcheck.cli import app
from mupcheck.spec.reading import load_sweep, make_sweep
from mupcheck.theory.explain import SITES
from mupcheck.theory.topics import TOPICS

TEXT = README.read_text(encoding="utf-8")
KEPT = ROOT / "sweeps" / "kept"
KEEP = runpy.run_path(str(ROOT / "sweeps" / "keep.py"))
QUOTES = quotes()
RUN = [quote for quote in QUOTES if quote.command.startswith("mupcheck ")]
# trained at a smaller size here: what it printed at its own size is stored with the picture
(SWEEP,) = (quote for quote in RUN if quote.verb == "lr-sweep")
COMMANDS = typer.main.get_command(app.app).commands


def test_the_readme_is_short_and_says_what_matters_first():
    lines = TEXT.splitlines()
    assert len(lines) <= 240
    first_screen = "\n".join(lines[:20])
    for said in (
        "our reference Gated DeltaNet model",
        "What the answer is",
        "What it costs",
        "sweeps/gallery_adamw.png",
    ):
        assert said in first_screen, said
    assert f"(sweeps/{PICTURE.name})" in TEXT
    assert re.search(r"best learning rate of\s+SP falls by [\d.]+ octaves; that of μP rises by [\d.]+", TEXT)


def test_the_table_of_real_widths_is_what_the_kept_results_say(tmp_path):
    shown = {
        "paper_small_adamw_no_decay": ("sp", "sp-fanin", "gdn-mup"),
        "paper_small_sgd": ("sp", "gdn-mup"),
    }
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in shown:  # alone: most of the time would go into the coordinate checks that lie beside them
        (kept / f"{name}.tar.xz").symlink_to(KEPT / f"{name}.tar.xz")
    folders = {folder.name: folder for folder in KEEP["lay_out"](kept, tmp_path / "laid out")}
    answers = []
    for name, tables in shown.items():
        found = {answer.parametrization: answer for answer in transfer(load_results(folders[name]))}
        answers += [found[table] for table in tables]
    rows = [line.split("|")[1:-1] for line in TEXT.splitlines() if re.match(r"\| (AdamW|SGD|SP|μP)", line)]
    assert len(rows) == len(answers) == 5
    for (_, optima, drift, cost), answer in zip(rows, answers, strict=True):
        at = [float(x) for x in re.findall(r"-\d+\.\d\d", optima)]
        assert at == pytest.approx([optimum.log2_lr for optimum in answer.optima], abs=0.005001)
        assert answer.verdict in drift
        ends = [end for end in (answer.drift.ci_low, answer.drift.ci_high) if end is not None]
        numbers = [answer.drift.slope, *ends] if len(ends) == 2 else ends
        assert [float(x) for x in re.findall(r"[+-]\d\.\d\d", drift)] == pytest.approx(numbers, abs=0.005001)
        said = cost.replace("**", "").strip()
        assert said.partition("], ")[0] in answer.sentence and said.partition("], ")[2] in answer.sentence, said


def test_what_clipping_hides_is_claimed_of_the_widths_where_it_was_seen():
    (claim,) = re.findall(
        r"At the\s+demo's widths \((\d+) to (\d+)\) [^;]*clipping hid the contrast, at (\d+) to (\d+)", TEXT
    )
    demo, kept = (load_sweep(ROOT / "sweeps" / f"{name}.toml", device="cpu") for name in ("demo_lr", "paper_small_sgd"))
    ends = [end for sweep in (demo, kept) for end in (min(sweep.widths), max(sweep.widths))]
    assert [int(width) for width in claim] == ends
    assert "Does clipping hide the contrast under SGD?** Not" in (ROOT / "sweeps" / "MEASURED.md").read_text("utf-8")


def test_every_kept_archive_is_whole():
    archives = sorted(KEPT.glob("*.tar.xz"))
    assert len(archives) > 5
    for file in archives:
        sweep, tables = KEEP["_read"](file, file.name.removesuffix(".tar.xz"))
        ids = set(tables["runs"]["run_id"].to_pylist())
        assert ids and ids <= set(json.loads(sweep)["run_ids"])
        assert all(set(tables[name]["run_id"].to_pylist()) <= ids for name in ("steps", "coords"))


def test_every_picture_of_the_readme_is_there_and_small():
    pictures = re.findall(r"sweeps/\w+\.png", TEXT)
    assert len(set(pictures)) == 4
    assert all((ROOT / picture).stat().st_size < 170_000 for picture in pictures)


def test_set_up_is_two_commands_that_are_there():
    makes = [quote.command for quote in QUOTES if quote.command.startswith("make ")]
    assert makes == ["make demo", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test", "readme", "gpu-check"} <= set(targets)


@pytest.mark.parametrize("quote", RUN, ids=lambda quote: quote.command)
def test_a_command_runs_and_exits_as_the_readme_says(quote, workplace):
    answer = workplace.answers[quote.command]
    allowed = (0, 3) if quote is SWEEP else (quote.exit_code,)
    assert answer.code in allowed, answer.err
    assert answer.out.strip()


@pytest.mark.parametrize(
    "quote", [quote for quote in RUN if quote.shown and quote is not SWEEP], ids=lambda q: q.command
)
def test_what_is_quoted_is_printed(quote, workplace):
    assert missing_lines(quote, workplace.answers[quote.command].out) == []


def test_what_is_quoted_of_the_sweep_is_of_the_run_that_is_drawn(workplace):
    with Image.open(PICTURE) as image:
        page = image.text[PICTURE_KEY]
    assert missing_lines(SWEEP, page, rounding=0) == []
    # in the form that the command prints today: headings, and the words before a number
    printed = workplace.answers[SWEEP.command].out
    heading = next(line for line in SWEEP.shown if "log2 lr" in line)
    assert any(line.split() == heading.split() for line in printed.splitlines()), heading
    assert {re.match(r"\S+ \(\w+, [\w-]+\):", line)[0] for line in SWEEP.shown if "):" in line} <= {
        found[0] for line in printed.splitlines() if (found := re.match(r"\S+ \(\w+, [\w-]+\):", line))
    }


def test_the_text_says_what_the_picture_shows():
    with Image.open(PICTURE) as image:
        page = image.text[PICTURE_KEY]
    drifts = [float(x) for x in re.findall(r"^ *(?:why: )?drift ([+-]\d\.\d\d) \[", page, re.MULTILINE)]
    fell, rose = map(float, re.search(r"SP falls by (\d+\.\d+) octaves; that of μP rises by (\d+\.\d+)", TEXT).groups())
    # over the two doublings of its widths
    assert sorted(2 * drift for drift in drifts) == pytest.approx([-fell, rose], abs=0.1)
    names = [str(verdict) for verdict in re.findall(r"^\S+ \(adamw, head-dim\): (.*)$", page, re.MULTILINE)]
    assert sorted(names) == ["cannot tell", "drifts"]
    assert "its verdict there is *cannot tell*" in TEXT


def test_the_sweep_that_is_shown_is_that_of_make_demo():
    shown = make_sweep({"kind": "lr", "optimizer": "adamw"}, device="cpu").model_dump()
    demo = load_sweep(ROOT / "sweeps" / "demo_lr.toml", device="cpu").model_dump()
    assert {key for key in shown if shown[key] != demo[key]} == {"name", "question"}
    assert len(shown["widths"]) * len(shown["lrs"]) * len(shown["seeds"]) * 2 == int(
        re.search(r"In (\d+) trainings", TEXT)[1]
    )


def test_numbers_that_the_code_has_are_the_codes():
    from mupcheck.cli import exits
    from mupcheck.coordinates.applied import DEPARTS
    from mupcheck.learning_rates.cost import COST_TOLERANCE
    from mupcheck.learning_rates.drift import DRIFT_TOLERANCE
    from mupcheck.measuring.path import LONG
    from mupcheck.theory.parametrization import TABLES

    said = " ".join(TEXT.split())
    assert f"the whole interval lies within ±{DRIFT_TOLERANCE:g}, " in said
    assert f"the whole interval lies within {COST_TOLERANCE:g}% (`--cost`)" in said
    assert f"more than {DEPARTS:.1%} of its step fails" in said and f"and at {LONG} tokens" in said
    assert len(TABLES) == 6 and "or take one of six." in TEXT and "prints the six that are shipped" in TEXT
    codes = (exits.OK, exits.FAILED, exits.USAGE, exits.CANNOT_TELL)
    assert "Exit codes: {} as expected, {} a verdict failed, {} bad input, {} cannot tell.".format(*codes) in TEXT


def test_commands_topics_and_files_that_are_named_exist():
    named = re.findall(r"`mupcheck ([a-z-]+)((?: [^`]*)?)`", TEXT)
    assert len(named) > 5
    for verb, rest in named:
        assert verb in COMMANDS, verb
        words = shlex.split(rest)
        if verb == "explain" and words:
            assert words[0] in (*SITES, *TOPICS)
        elif words:
            with COMMANDS[verb].make_context(verb, words):
                pass
    topics = re.search(r"a topic \(([^)]*), \.\.\.\)", TEXT)[1]
    assert {name.strip("` ") for name in topics.split(",")} <= set(TOPICS)
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT) + re.findall(r"`(sweeps/[\w.]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:model|theory|training|coordinates|learning_rates|terminal|sweep)/[\w/.]*)`", TEXT):
        assert (ROOT / "mupcheck" / path).exists(), path


def test_a_command_that_does_not_exist_is_seen():
    assert mupcheck("coordinate", "--widths", "256").code == 2


def test_a_line_that_is_not_printed_is_seen():
    said = "gates (sgd): fail   slope +0.56 [+0.47, +0.66], 127 pass"
    assert same_line(said, said.replace("   ", " ").replace("0.56", "0.57"))
    assert not same_line(said, said.replace("0.56", "0.59"))
    assert not same_line(said, said.replace("127", "128"))
    assert not same_line(said, said.replace("fail", "pass"))
    quote = Quote("mupcheck x", 0, (said, LEFT_OUT, "last 1"))
    assert missing_lines(quote, f"{said}\nother\nlast 1") == []
    assert missing_lines(quote, f"last 1\n{said}") == ["last 1"]
    assert missing_lines(Quote("mupcheck x", 0, ("a", "b")), "a\nnew\nb") == ["not shown: new"]


def test_lines_are_renewed_and_left_out_where_they_are_gone():
    quote = Quote("mupcheck x", 0, ("slope of a_proj is 0.5", LEFT_OUT, "drift of all +0.20", "no such words here"))
    output = "title\nslope of a_proj is 0.7\nbetween\ndrift of all -0.90 now\n"
    assert renewed(quote, output) == ["slope of a_proj is 0.7", LEFT_OUT, "drift of all -0.90 now"]
    assert renewed(Quote("mupcheck x", 0, (" ────", LEFT_OUT)), "a b\n ───────\n1 2") == [" ───────", LEFT_OUT]
