"""mupcheck audit as a user meets it: verdicts and exit codes, and what is wrong with a file in one line."""

import re
from pathlib import Path

import pytest
from commands import mupcheck

import mupcheck as public
from mupcheck.cli import exits
from mupcheck.results.reading import read_sweep

HERE = Path(__file__).parents[2] / "sweeps" / "own_model.py"
QUICK = ("--widths", "16,32,64", "--seeds", "2")
BUILD = """
import torch
from torch import nn

def build(width):
    return nn.Sequential(nn.Embedding(16, width), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 16))
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def audited(text, *arguments):
    Path("my.py").write_text(text)
    return mupcheck("audit", "my.py", *(arguments or QUICK))


def test_the_example_passes_and_fails_without_its_rules():
    answer = mupcheck("audit", HERE, "--widths", "32,64,128", "--top-up")
    assert answer.code == exits.OK, answer.out
    assert re.search(r"^own_model \(adamw\): pass ", answer.out, re.MULTILINE)
    text = HERE.read_text()
    assert "MUP, BASE, VOCAB, HEAD = True," in text
    answer = audited(text.replace("HEAD = True,", "HEAD = False,"), "--widths", "32,64,128")
    assert answer.code == exits.FAILED
    assert re.search(r"why: layers\.\*\.\w+: effective update grows as m\^\+.*lr too large by m\^\+1", answer.out)
    # stored as any coordinate check is
    assert mupcheck("check", "results/my", "--expect", "fail").code == exits.OK
    assert mupcheck("check", "results/my").code == exits.FAILED
    assert mupcheck("plot", "results/my").code == exits.OK
    assert mupcheck("audit", "my.py", *QUICK, "--expect", "fail").code == exits.OK


def test_the_answer_is_a_document_too():
    answer = audited(BUILD, *QUICK, "--json")
    (summary,) = answer.json["summary"]
    assert (summary["sweep"], summary["mode"]) == ("my", "own")
    assert {row["site"] for row in answer.json["pooled"]} >= {"0.weight", "1.weight", "1.bias", "3.weight"}


def test_the_roles_of_its_parameters_are_kept_with_it():
    assert audited(BUILD, *QUICK, "--expect", "fail").code in (exits.OK, exits.FAILED, exits.CANNOT_TELL)
    kept = {row["site"]: (row["role"], row["growth"]) for row in read_sweep("results/my")["parameters"]}
    assert kept["1.weight"] == ("hidden", [1.0, 1.0]) and kept["3.weight"][0] == "readout"
    assert set(kept) == {"0.weight", "1.weight", "1.bias", "3.weight", "3.bias"}


def test_an_audit_again_replaces_the_one_before_and_a_changed_file_is_another():
    first = audited(BUILD, *QUICK, "--json").json["pooled"]
    assert audited(BUILD, *QUICK, "--json").json["pooled"] == first
    changed = audited(BUILD + "\ndef batch(seed):\n    return torch.arange(17)[None] % (3 + seed)\n", *QUICK, "--json")
    assert changed.json["pooled"] != first
    assert len(public.load_results("results/my").runs) == 6


RAISES = """
def helper(width):
    raise RuntimeError("no such width\\nat all")

def build(width):
    return helper(width)
"""
MODEL = BUILD.replace("nn.Sequential(", "nn.Sequential(").strip()
LOSS = MODEL + "\n\ndef loss(model, batch):\n    out = model(batch)\n    return "
WIDE = "def build(width):\n    return width"
WRONG = {
    "no build": ("x = 1", "my.py has no function build(width) that returns a torch.nn.Module"),
    "no parameter": ("def build():\n    pass", "build of my.py is to take (width): too many positional arguments"),
    "not Python": ("def build(width:\n", "importing my.py raised SyntaxError"),
    "fails on import": ("import no_such_module_here", "importing my.py raised ModuleNotFoundError: No module named"),
    "exits": ("import sys\nsys.exit(3)", "importing my.py raised SystemExit: 3"),
    "no module": (WIDE, "build(16) of my.py returned int, not a torch.nn.Module"),
    "raises": (RAISES, "build(16) of my.py raised RuntimeError: no such width at all"),
    "ignores width": (
        MODEL.replace("    return", "    width = 8\n    return"),
        "build(16) and build(32) of my.py have 344 and 344 values"
    ),
    "forward raises": (
        MODEL.replace("(width, 16)", "(width + 1, 16)"), "the forward pass of my.py raised RuntimeError: mat1 and mat2"
    ),
    "loss is no scalar": (
        LOSS + "out.mean(-1)", "at width 16, seed 0, step 0 is a tensor of shape (1, 17), not a scalar"
    ),
    "loss is no tensor": (LOSS + "3.0", "step 0 is a float, not a scalar; return its mean"),
    "loss has no gradient": (LOSS + "out.detach().mean()", "step 0 has no gradient"),
    "loss is NaN": (LOSS + "out.mean() * float('nan')", "at width 16, seed 0, step 0 is nan; look at the model's"),
    "loss raises": (LOSS + "out.nothing()", "loss(model, batch) of my.py raised AttributeError"),
    "batch raises": (MODEL + "\ndef batch(seed):\n    return {}[seed]", "batch(0) of my.py raised KeyError: 0"),
    "no embedding": (
        "from torch import nn\ndef build(width):\n    return nn.Linear(width, width)", "no nn.Embedding to take tokens"
    ),
    "no optimizer": (
        MODEL + "\ndef optimizer(model):\n    return 'adam'",
        "optimizer(model) of my.py returned str, not a torch.optim"
    ),
    "meta": (
        MODEL.replace("    return nn", "    with torch.device('meta'):\n        return nn"), "is on the meta device"
    ),
    "takes no lr": (
        MODEL + "\ndef optimizer(model):\n    return torch.optim.SGD(model.parameters())", "of my.py takes no lr"
    ),
    "wrong output": (MODEL.replace("nn.Linear(width, 16)", "nn.Flatten()"), "the model returns (1, "),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_one_line_and_nothing_half_written(what):
    text, said = WRONG[what]
    answer = audited(text, *QUICK, *(("--lr", "0.1") if what == "takes no lr" else ()))
    assert answer.code == exits.USAGE, answer
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last, answer.err
    assert answer.out == ""
    assert not list(Path("results").glob("*/runs/*"))


def test_what_user_code_raises_is_told_with_the_lines_of_the_users_file_alone():
    lines = audited(RAISES).err.strip().splitlines()
    assert [re.search(r'File ".*my\.py", line (\d+), in (\w+)', line)[0][-30:] for line in lines if "File" in line]
    assert [line.split(", ")[1:] for line in lines if "File" in line] == [
        ["line 6", "in build"],
        ["line 3", "in helper"],
    ]
    assert "mupcheck/" not in "\n".join(lines[:-1]) and len(lines) <= 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no.py",), "no.py does not exist; give a Python file with a function build(width)"),
        (("my.txt",), "my.txt is not a Python file"),
        (("my.py", "--widths", "16,32"), "widths '16,32' are not at least 3, as a slope needs; try 64,128,256"),
        (("my.py", "--widths", "a,b"), "--widths 'a,b' is not a list of whole numbers"),
        (("my.py", "--record", "3"), "record '3' is not 0 and a later step at least"),
        (("my.py", "--lr", "-1"), "lr -1 is no learning rate above 0"),
        (("my.py", "--expect", "transfers"), "--expect 'transfers' is unknown; known: pass, fail"),
        (("my.py", "--name", "a/b"), "name 'a/b' is none"),
    ],
)
def test_a_wrong_option_is_one_line(arguments, said):
    Path("my.py").write_text(BUILD)
    Path("my.txt").write_text(BUILD)
    answer = mupcheck("audit", *arguments)
    assert answer.code == exits.USAGE
    assert said in answer.err and len(answer.err.strip().splitlines()) == 1
    assert not Path("results").exists()
