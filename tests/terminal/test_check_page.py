"""`mupcheck check` as a user and a CI job meet it: page, JSON, files, annotations, exit codes, one line for a fault."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from commands import mupcheck
from planted_checks import EFFECTIVE, RESIDUAL, RIGHT, plant, together, write

from mupcheck.cli import exits
from mupcheck.gate.baseline import read_baseline
from mupcheck.gate.report import Report

etree = pytest.importorskip("lxml.etree")  # of the test extra; a GPU image may lack it

WRONG = RIGHT | {(*EFFECTIVE, 1): 0.5}
DRIFTED = RIGHT | {(*EFFECTIVE, 1): 0.1}


check = partial(mupcheck, "check")


@pytest.fixture(autouse=True)
def _nowhere(tmp_path, monkeypatch):
    """Stand in an empty folder, not on GitHub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


def results(*parts, out="results") -> Path:
    write(together(*parts), Path(out))
    return Path(out)


def right_and_known_wrong(slopes=RIGHT):
    """Return gdn-mup that passes and sp that is expected to fail, of one sweep."""
    return together(plant(slopes), plant(WRONG, parametrization="sp", expect="fail"))


# --- the page ---------------------------------------------------------------------------------------------------------


TITLE = (
    "coordinate check s: adamw, head-dim, widths 32, 64, 128, 256 (base 1), 4 seeds (0 to 3), steps 0, 1, "
    "lr 2^-12, data synthetic, batch 1 x 1 tokens; 90% intervals, slopes pooled over layers and later steps"
)


def test_a_gate_that_passes_is_a_title_and_a_line_a_table():
    answer = check(results(right_and_known_wrong()))
    assert (answer.code, answer.err) == (exits.OK, "")
    pooled = "3 judged of 4 pooled slopes"
    assert answer.out.splitlines() == [
        TITLE,
        f"gdn-mup (adamw, head-dim): pass, as expected  {pooled}: 3 pass, 0 fail, 0 cannot tell",
        f"sp (adamw, head-dim): fail, as expected  {pooled}: 2 pass, 1 fail, 0 cannot tell",
        "2 checked: 2 ok",
    ]


def test_the_title_comes_before_the_numbers_everywhere():
    folder = results(plant(WRONG))
    page = check(folder, "--markdown", "m.md").out
    assert page.index(TITLE) < page.index("a_proj")
    text = Path("m.md").read_text()
    assert 0 < text.index("widths 32, 64, 128, 256") < text.index("a\\_proj")
    (group,) = check(folder, "--json").json["groups"]
    assert (group["title"], group["confidence"]) == (TITLE, 0.9)


def test_a_gate_that_fails_shows_the_slopes_and_why():
    answer = check(results(plant(WRONG)))
    assert answer.code == exits.FAILED
    row = next(line for line in answer.out.splitlines() if "a_proj" in line)
    assert " ".join(row.split()) == "effective_update rms a_proj later +0.50 [+0.49, +0.50] 0 +0.50 fail"
    assert "residual" not in answer.out, "what passes is not shown"
    assert "gdn-mup (adamw, head-dim): fail, expected pass" in answer.out
    assert "  reason: effective_update rms of a_proj" in answer.out
    everything = check("results", "--all")
    assert "residual" in everything.out and "weight_grad rms" in everything.out


def test_drift_is_a_column_of_its_own():
    check(results(plant(expect="pass")), "--baseline", "b.txt", "--update-baseline")
    answer = check(results(plant(DRIFTED), out="moved"), "--baseline", "b.txt")
    assert answer.code == exits.FAILED
    header = next(line for line in answer.out.splitlines() if "off by" in line)
    assert header.split()[-4:] == ["off", "by", "verdict", "drift"]
    row = next(line for line in answer.out.splitlines() if "a_proj" in line)
    assert row.split()[-5:] == ["0", "+0.10", "pass", "+0.10", "drifted"]
    assert "pass, as expected, drifted from the baseline" in answer.out
    assert (
        "1 of 3 compared slopes drifted from b.txt: effective_update rms of a_proj, later steps: +0.097 now, -0.003"
        in answer.out
    )
    assert "3 compared with the baseline, which leaves out mean_abs: 2 same, 1 drifted" in answer.out


def test_the_page_fits_a_pipe():
    check(results(plant()), "--baseline", "b.txt", "--update-baseline")
    long = {
        ("activation_update", "rms", "final_norm", 1): 0.5,
        ("weight_update", "spectral", "final_norm_gain", 1): 0.7,
    }
    both = together(plant(RIGHT | long), plant(noise=2.0, parametrization="mup"))
    answer = check(results(both, out="b"), "--baseline", "b.txt", "--all")
    rows = [line for line in answer.out.splitlines() if ":" not in line]
    assert any(line.rstrip().endswith("new") for line in rows)
    assert max(map(len, rows)) <= 120 and "…" not in answer.out
    # a row that does not fit is broken into two
    assert {line[:2].strip() for line in rows} <= {"", "q", "a", "e", "w", "─"}


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "arguments", "code"),
    [
        (lambda: plant(), (), exits.OK),
        (lambda: plant(WRONG), (), exits.FAILED),
        (lambda: plant(WRONG), ("--expect", "fail"), exits.OK),
        (lambda: plant(), ("--expect", "fail"), exits.FAILED),
        (lambda: plant(expect="fail"), (), exits.FAILED),
        (lambda: plant(expect="fail"), ("--expect", "pass"), exits.OK),
        (lambda: plant(noise=2.0), (), exits.CANNOT_TELL),
        (lambda: plant(noise=2.0), ("--strict",), exits.FAILED),
        (lambda: plant(missing=1), (), exits.CANNOT_TELL),
        (lambda: plant(missing=1), ("--strict",), exits.FAILED),
        (lambda: plant(seeds=(0,)), (), exits.CANNOT_TELL),
        (lambda: plant(widths=(32, 64)), (), exits.CANNOT_TELL),
    ],
)
def test_the_exit_code_follows_the_outcome(part, arguments, code):
    answer = check(results(part()), *arguments)
    assert answer.code == code, answer.out + answer.err
    assert "Traceback" not in answer.err


def test_a_sweep_of_which_nothing_is_there_is_no_pass():
    folder = results(plant())
    (folder / "t").mkdir()
    (folder / "t" / "sweep.json").write_text("{}")
    answer = check(folder)
    assert answer.code == exits.CANNOT_TELL
    assert "cannot tell no run of t is there; run it again" in answer.out
    assert "1 checked: 1 ok, 1 missing" in answer.out
    assert check(folder / "s").code == exits.OK, "of one sweep's folder nothing else is asked"


def test_what_the_baseline_has_and_the_folder_lacks_is_no_pass():
    both = together(plant(), plant(sweep="t"), plant(sweep="t", parametrization="mup"))
    check(results(both, out="both"), "--baseline", "b.txt", "--update-baseline")
    answer = check(results(plant()), "--baseline", "b.txt")
    assert answer.code == exits.CANNOT_TELL
    assert answer.out.count("is in b.txt and not in results") == 1
    assert "the sweep t is in b.txt and not in results; run it, or renew the baseline" in answer.out
    assert check("results/s", "--baseline", "b.txt").code == exits.OK
    answer = check(results(plant(sweep="t"), out="part") / "t", "--baseline", "b.txt")
    assert answer.code == exits.CANNOT_TELL and "mup of t is in b.txt and not in part/t" in answer.out


# --- the baseline -----------------------------------------------------------------------------------------------------


def test_a_baseline_is_written_then_met_then_renewed():
    folder = results(right_and_known_wrong())
    answer = check(folder, "--baseline", "deep/b.txt", "--update-baseline")
    assert answer.code == exits.OK
    assert (
        answer.err
        == "deep/b.txt was written: 2 group(s), 6 judged slopes (mean_abs left out); 6 new, changed or gone\n"
    )
    assert check(folder, "--baseline", "deep/b.txt").code == exits.OK
    moved = results(right_and_known_wrong(DRIFTED), out="moved")
    assert check(moved, "--baseline", "deep/b.txt").code == exits.FAILED
    before = Path("deep/b.txt").read_text().splitlines()
    assert "1 new, changed" in check(moved, "--baseline", "deep/b.txt", "--update-baseline").err
    after = Path("deep/b.txt").read_text().splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert check(moved, "--baseline", "deep/b.txt").code == exits.OK
    assert [path.name for path in Path("deep").iterdir()] == ["b.txt"], "nothing half-written is left"


def test_a_failing_gate_does_not_become_the_baseline():
    check(results(plant()), "--baseline", "b.txt", "--update-baseline")
    before = Path("b.txt").read_text()
    for part, code in ((plant(WRONG), exits.FAILED), (plant(noise=2.0), exits.CANNOT_TELL)):
        answer = check(results(part, out=f"out{code}"), "--baseline", "b.txt", "--update-baseline")
        assert answer.code == code
        assert "b.txt was not written, as a baseline records what is right; gdn-mup (adamw, head-dim): " in answer.err
        assert Path("b.txt").read_text() == before
    answer = check("out1", "--baseline", "b.txt", "--update-baseline", "--expect", "fail")
    assert answer.code == exits.OK and read_baseline("b.txt")[0].verdict == "fail"


BAD_INPUT = [
    ("check nowhere", "nowhere does not exist; give the folder that --out named"),
    ("check file", "file is not a folder"),
    ("check", "results does not exist"),
    ("check here --update-baseline", "--update-baseline needs to know which file; add --baseline FILE"),
    ("check here --expect maybe", "--expect 'maybe' is no verdict of what is there; try pass or fail"),
    ("check here --expect drifts", "--expect 'drifts' is no verdict of what is there; try pass or fail"),
    ("check mixed_lr", "runs of s gdn-mup adamw head-dim differ in lr (0.000244140625 and 0.5)"),
    ("check mixed_data", "differ in data_hash (cd34 and other)"),
    ("check damaged", "is damaged or not Parquet"),
    ("check here --frob", "--frob"),
]


@pytest.fixture(scope="module")
def bad_things(tmp_path_factory) -> Path:
    """Return a folder with what a user can get wrong; it stays as it is."""
    folder = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, part in {
            "here": plant(),
            "mixed_lr": together(plant(seeds=(0, 1)), plant(seeds=(2, 3), lr=0.5)),
            "mixed_data": together(plant(seeds=(0, 1)), plant(seeds=(2, 3), data_hash="other")),
            "damaged": plant(),
        }.items():
            everything = {"run_ids": list(part.runs["run_id"]), "spec": {}}
            results(replace(part, sweeps={"s": everything}), out=name)
        next(Path("damaged/s/coords").iterdir()).write_bytes(b"noise")
        next(Path("damaged/s/runs").iterdir()).write_bytes(b"noise")
        Path("file").write_text("my notes")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("line", "said"), BAD_INPUT, ids=[line for line, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(bad_things, monkeypatch, line, said):
    monkeypatch.chdir(bad_things)
    before = tree(bad_things)
    answer = check(*line.split()[1:], "--junit", "j.xml", "--markdown", "m.md")
    assert (answer.code, answer.out) == (exits.USAGE, ""), answer.out + answer.err
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1
    assert said in answer.err
    assert tree(bad_things) == before


@pytest.mark.parametrize("option", ["--junit", "--markdown", "--baseline"])
def test_what_cannot_be_written_is_exit_code_4(option):
    folder = results(plant())
    Path("file").write_text("")
    answer = check(folder, option, "file/deep/x", *(["--update-baseline"] if option == "--baseline" else []))
    assert answer.code == exits.STORAGE
    assert answer.err.count("\n") == 1 and "cannot write file/deep/x: Not a directory" in answer.err


# --- JSON, files, annotations -----------------------------------------------------------------------------------------


def test_json_is_one_document_with_distance_and_drift(monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    check(results(plant()), "--baseline", "b.txt", "--update-baseline")
    answer = check(results(plant(WRONG), out="wrong"), "--baseline", "b.txt", "--json")
    assert answer.code == exits.FAILED
    document = answer.json
    assert (document["outcome"], document["missing"]) == ("failed", [])
    (group,) = document["groups"]
    assert (group["verdict"], group["expected"], group["outcome"], group["drift"]) == (
        "fail",
        "pass",
        "failed",
        "drifted",
    )
    (row,) = (row for row in group["pooled"] if row["kind"] == "effective_update")
    assert row["off_by"] == pytest.approx(0.5, abs=0.02)
    assert row["baseline"]["drift"] == pytest.approx(0.5, abs=0.001)
    assert (row["baseline"]["verdict"], row["baseline"]["was"]) == ("drifted", "pass")
    contract = """parametrization optimizer mode kind stat site layer step slope slope_stderr ci_low ci_high required
        implied tolerance verdict as_implied n_widths n_seeds reason"""
    assert set(contract.split()) <= set(group["slopes"][0])
    assert answer.err.startswith("::error title=gdn-mup (adamw%2C head-dim)%3A fail"), "annotations are on stderr"


def test_lr_sweeps_are_judged_too(tmp_path, monkeypatch):
    """Transfers, drifts and cannot tell are answers; a file that expects one of them makes another a failure."""
    part = plant(kind="lr", expect="transfers")
    runs = [
        part.runs.assign(
            lr=2.0**e,
            log2_lr=e,
            # seeds and widths that agree, and are no copies
            train_loss=1 + (e + 8) ** 2 / 9 + part.runs["seed"] / 100 - part.runs["width"] / 1e4,
            run_id=part.runs["run_id"] + str(e),
        )
        for e in (-10.0, -9.0, -8.0, -7.0, -6.0)
    ]
    lr = replace(part, runs=pd.concat(runs), coords=part.coords.iloc[:0])
    monkeypatch.setattr("mupcheck.gate.check.load_results", lambda *_, **__: lr)
    lr.sweeps["s"]["run_ids"] = list(lr.runs["run_id"])
    answer = check(tmp_path, "--json")
    (group,) = answer.json["groups"]
    assert (answer.code, group["kind"], group["verdict"], group["outcome"]) == (exits.OK, "lr", "transfers", "ok")
    assert group["transfer"]["drift"]["slope"] == pytest.approx(0, abs=0.01)
    answer = check(tmp_path, "--expect", "drifts")
    title = "learning-rate sweep s: adamw, head-dim, widths 32, 64, 128, 256 (base 1), 4 seeds"
    assert answer.out.startswith(title) and "lrs from 2^-10 to 2^-6" in answer.out.splitlines()[0]
    assert answer.code == exits.FAILED and "gdn-mup (adamw, head-dim): transfers, expected drifts" in answer.out
    lr.sweeps["s"]["run_ids"].append("another")
    answer = check(tmp_path)
    assert answer.code == exits.CANNOT_TELL and "1 of 81 runs of s is missing" in answer.out


def test_junit_and_markdown_are_written_and_markdown_is_added_to():
    folder = results(plant(WRONG))
    Path("summary.md").write_text("from a step before\n")
    for _ in range(2):
        assert check(folder, "--junit", "out/junit.xml", "--markdown", "summary.md").code == exits.FAILED
    tree = etree.parse("out/junit.xml")
    etree.XMLSchema(etree.parse(Path(__file__).parents[1] / "junit.xsd")).assertValid(tree)
    assert tree.getroot().get("failures") == "2"
    text = Path("summary.md").read_text()
    assert text.startswith("from a step before\n### mupcheck check") and text.count("### mupcheck check: ") == 2


def test_annotations_are_github_s_alone(monkeypatch):
    folder = results(plant(WRONG))
    assert "::error" not in check(folder).err
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    answer = check(folder)
    assert answer.err.startswith("::error title=") and answer.err.count("\n") == 1
    assert check(folder, "--expect", "fail").err == ""


def test_an_empty_report_is_no_pass():
    assert Report(()).outcome == "cannot tell"


def test_names_of_the_user_are_shown_as_they_are():
    answer = check(results(plant(WRONG, parametrization="[red]mine")))
    assert "[red]mine (adamw, head-dim): fail" in answer.out


def test_the_bad_results_of_the_issue_cannot_be_told():
    broken = plant()
    broken.coords.loc[broken.coords["site"] == RESIDUAL[2], "value"] = float("nan")
    answer = check(results(broken))
    assert answer.code == exits.CANNOT_TELL
    assert "residual holds a value that is no finite number: its rms is nan at width 32, seed 0, step 0" in answer.out
