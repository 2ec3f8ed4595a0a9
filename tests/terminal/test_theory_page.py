"""The commands `identities`, `gates` and `explain` as a user meets them."""

from dataclasses import replace

import pandas as pd
import pytest
from commands import mupcheck
from planted_gates import planted

from mupcheck.cli import exits
from mupcheck.proof import identities
from mupcheck.results.reading import Results
from mupcheck.theory.parametrization import MODES, OPTIMIZERS


@pytest.fixture
def _results(monkeypatch):
    """Have `gates` find what `planted` planted, at the path that is its slope."""

    def load(path, *, tables):
        runs, coords = planted(float(str(path)), noise=0.05)
        return Results(runs, pd.DataFrame(), coords, {})

    monkeypatch.setattr("mupcheck.results.reading.load_results", load)


def test_identities_of_a_custom_table(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nbase = "mup"\n[[rule]]\nrole = "gate"\nlr = -0.5\n')
    answer = mupcheck("identities", "-p", path, "--opt", "sgd", "--mode", "heads")
    assert (answer.code, answer.err) == (exits.OK, "")
    assert "mine: 5 of 5 hold" in answer.out
    assert "symmetry: losses at m = 4" in answer.out


def test_identities_default_to_both_optimizers_and_modes(monkeypatch):
    monkeypatch.setattr(identities, "IDENTITIES", (identities.base_width,))
    answer = mupcheck("identities", "--json")
    assert [(row["parametrization"], row["optimizer"], row["mode"]) for row in answer.json] == [
        ("gdn-mup", optimizer, mode) for optimizer in OPTIMIZERS for mode in MODES
    ]


@pytest.mark.parametrize(
    ("holds", "arguments", "code"),
    [
        (True, [], exits.OK),
        (False, [], exits.FAILED),
        (None, [], exits.CANNOT_TELL),
        (None, ["--strict"], exits.FAILED),
    ],
)
def test_an_identity_that_breaks_is_an_exit_code_and_a_next_step(monkeypatch, holds, arguments, code):
    def law(name, setting):
        real = identities.base_width(name, setting)
        return replace(real, holds=holds, measured=float("inf"), next_step="" if holds else "look there")

    monkeypatch.setattr(identities, "IDENTITIES", (law,))
    answer = mupcheck("identities", "--opt", "sgd", "--mode", "heads", *arguments)
    assert answer.code == code
    assert ("base width (sgd, heads): look there" in answer.out) == (holds is not True)
    assert mupcheck("identities", "--opt", "sgd", "--mode", "heads", "--json").json[0]["measured"] is None


@pytest.mark.usefixtures("_results")
def test_gates_says_what_the_slopes_speak_for():
    answer = mupcheck("gates", "--", "-0.5")
    assert answer.code == exits.OK
    assert "z_beta at step 0: independent; the rule of gdn-mup: lr exponent -1/2 for W_alpha and W_beta" in answer.out
    document = mupcheck("gates", "--json", "--", "-0.5").json
    assert len(document["slopes"]) == 12 and len(document["pooled"]) == 4
    assert document["pooled"][0]["near"] == ["independent"]


def test_what_holds_for_all_gates_is_said_once(monkeypatch):
    runs, coords = planted(-0.5, values=0.5)
    monkeypatch.setattr(
        "mupcheck.results.reading.load_results", lambda *_, **__: Results(runs, pd.DataFrame(), coords, {})
    )
    answer = mupcheck("gates")
    assert answer.code == exits.CANNOT_TELL
    assert answer.out.count("take a table whose activations pass") == 1
    assert answer.out.count("cannot tell") == 17  # 12 of a layer and step, 4 of all, and why


@pytest.mark.usefixtures("_results")
def test_gates_that_fit_no_rule_cannot_be_told():
    answer = mupcheck("gates", "--", "-3")
    assert answer.code == exits.CANNOT_TELL
    assert "z_beta at step 0: below every rule" in answer.out
    assert mupcheck("gates", "--strict", "--", "-3").code == exits.FAILED


def test_gates_of_what_has_none_is_one_line(tmp_path):
    answer = mupcheck("gates", tmp_path)
    assert answer.code == exits.USAGE
    assert answer.err.count("\n") == 1


def test_under_adamw_gates_says_that_the_distinction_disappears(monkeypatch):
    runs, coords = planted(-0.5, optimizer="adamw")
    monkeypatch.setattr(
        "mupcheck.results.reading.load_results", lambda *_, **__: Results(runs, pd.DataFrame(), coords, {})
    )
    assert "Under AdamW the step does not depend on the gradient's size" in mupcheck("gates").out


def test_explain_prints_all_there_is_to_say():
    answer = mupcheck("explain", "z_beta", "-p", "gdn-mup,sp", "--opt", "sgd")
    assert (answer.code, answer.err) == (exits.OK, "")
    for said in (
        "z_beta, an activation: write strength before its sigmoid", "made by b_proj", "role gate", "-1/2 to 0",
        "not judged", "paper, gate rule", "What a deviation usually means", "paper, SP",
    ):  # fmt: skip
        assert said in answer.out, said
    assert "adamw" not in answer.out
    assert "forward multiplier m^(+1/2) here" in mupcheck("explain", "o_raw", "-p", "gdn-mup", "--mode", "head-dim").out


def test_explain_as_json():
    (document,) = mupcheck("explain", "z_alpha", "--json", "--mode", "heads").json
    first = document["expectations"][0]
    assert first["kind"] == "activation"
    assert first["cells"][0]["required"]["low"] is None  # -inf: at most
    assert first["cells"][0]["required"]["high"] == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("explain zbeta", "unknown site or topic 'zbeta'; nearest: z_beta"),
        ("explain z_beta --opt adam", "--opt 'adam' is unknown; known: adamw, sgd"),
        ("explain z_beta -p nothing", "unknown parametrization 'nothing'"),
        ("identities -p nothing", "unknown parametrization 'nothing'"),
        ("identities -p missing.toml", "cannot read the rules file missing.toml"),
        ("identities --mode head", "--mode 'head' is unknown; known: head-dim, heads"),
        ("gates nowhere", "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(line, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = mupcheck(*line.split())
    assert (answer.code, answer.out) == (exits.USAGE, "")
    assert said in answer.err and answer.err.count("\n") == 1
