"""Families of transformers, audited by name: as shipped they fail, under a table they pass."""

import json
import re
import socket
from importlib import metadata
from pathlib import Path

import pytest
import torch
from commands import mupcheck

import mupcheck as public
from mupcheck.audit.families import FAMILIES, family_model
from mupcheck.cli import exits

HERE = [name for name in FAMILIES if name.startswith("transformers:")]
NEXT = "transformers:qwen3_next"
WIDTHS = ("--widths", "64,128,256")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def library():
    return pytest.importorskip("transformers", minversion="5.24")


def fails_as_shipped(family, *options):
    answer = mupcheck("audit", family, *WIDTHS, "--seeds", "3", "--all", *options)
    assert answer.code == exits.FAILED, answer.err
    causes = re.findall(r"likely cause \d: (.*)", answer.out)
    assert re.search(r"lr too large by m\^\+(1|1/2)", causes[0]), causes
    assert any("init std too large by m^+1/2" in cause for cause in causes)
    lrs = [i for i, cause in enumerate(causes) if "lr too" in cause]
    inits = [i for i, cause in enumerate(causes) if "init std" in cause]
    assert max(lrs) < min(inits)
    return answer


# two families in CI
@pytest.mark.slow
@pytest.mark.parametrize("family", [NEXT, "transformers:olmo_hybrid"])
def test_as_shipped_it_fails_and_under_mup_it_passes(library, family):
    fails_as_shipped(family)
    answer = mupcheck("audit", family, *WIDTHS, "--table", "mup", "--top-up")
    assert answer.code == exits.OK, answer.out
    name = family.partition(":")[2]
    assert re.search(rf"^{name}-mup \(adamw\): pass ", answer.out, re.MULTILINE)
    # stored as any coordinate check is, and says where it comes from
    spec = json.loads(Path(f"results/{name}-mup/sweep.json").read_text())["spec"]
    assert (spec["family"], spec["table"], spec["optimizer"], spec["base_width"]) == (family, "mup", "adamw", 64)
    assert spec["library"] == f"transformers {metadata.version('transformers')}"
    assert mupcheck("check", "results").code == exits.FAILED
    assert mupcheck("check", f"results/{name}-mup").code == exits.OK


@pytest.mark.families
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("family", HERE)
def test_every_family_fails_as_shipped_and_not_under_its_table(library, family, optimizer):
    """Under SGD gains that a growing number of heads share go as m^-1/2 at first (theory.md): no pass is asked."""
    table = {"adamw": "mup", "sgd": "gdn-mup"}[optimizer]
    widths = ("--widths", "64,128,256,512")
    assert mupcheck("audit", family, *widths, "--opt", optimizer, "--no-top-up").code == exits.FAILED
    answer = mupcheck("audit", family, *widths, "--table", table, "--opt", optimizer, "--top-up")
    assert answer.code in ((exits.OK,) if optimizer == "adamw" else (exits.OK, exits.CANNOT_TELL)), answer.out


@pytest.mark.families
@pytest.mark.parametrize(
    ("family", "ladder"), [(name, each) for name in HERE for each in FAMILIES[name].ladders if each != "head-dim"]
)
def test_every_ladder_of_heads_passes_under_mup(library, family, ladder):
    """With growing head sizes the norm behind the delta rule is below its eps at this init (theory.md, section 4)."""
    answer = mupcheck("audit", family, *WIDTHS, "--ladder", ladder, "--table", "mup", "--top-up")
    assert answer.code == exits.OK, answer.out


@pytest.mark.parametrize("family", HERE)
def test_every_width_of_a_ladder_can_be_built_and_gets_wider(library, family):
    for ladder in FAMILIES[family].ladders:
        user = family_model(family, ladder)
        widths = [width for width in range(1, 129) if not user.refuses(width)]
        assert widths[:2] and all(width % widths[0] == 0 for width in widths)
        small, large = (user.build(width) for width in (widths[0], 2 * widths[0]))
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters())
        out = small(torch.zeros(1, 8, dtype=torch.long))
        assert out.logits.shape == (1, 8, 256) and torch.isfinite(out.logits).all()


def test_nothing_asks_the_network(library, monkeypatch):
    def refused(*_):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    family_model("transformers:qwen3_5").build(64)(torch.zeros(1, 4, dtype=torch.long))


def test_two_ladders_are_never_one_audit(library):
    Path("mine.json").write_text(json.dumps([{"hidden_size": w, "intermediate_size": 2 * w} for w in (32, 64, 96)]))
    quick = ("--seeds", "1", "--record", "0,1", "--name", "same")
    mupcheck("audit", NEXT, "--widths", "32,64,96", *quick)
    first = {path.name for path in Path("results/same/runs").iterdir()}
    mupcheck("audit", NEXT, "--ladder", "mine.json", *quick)
    stored = public.load_results("results/same")
    assert len(stored.runs) == 3 and set(stored.runs["width"]) == {32, 64, 96}
    assert not {f"{run_id}.parquet" for run_id in stored.runs["run_id"]} & first
    assert json.loads(Path("results/same/sweep.json").read_text())["spec"]["ladder"] == "mine.json"


def test_a_table_is_applied_to_a_file_without_an_optimizer():
    Path("my.py").write_text(
        "from torch import nn\ndef build(width):\n    return nn.Sequential(nn.Embedding(16, width), "
        "nn.Linear(width, width, bias=False), nn.RMSNorm(width), nn.Linear(width, 16, bias=False))\n"
    )
    widths = ("--widths", "32,64,128,256")
    bad = mupcheck("audit", "my.py", *widths)
    assert bad.code == exits.FAILED and "lr too large by m^+1" in bad.out
    good = mupcheck("audit", "my.py", *widths, "--table", "mup")
    assert good.code == exits.OK, good.out
    assert "my-mup (adamw): pass" in good.out
    assert mupcheck("audit", "my.py", *widths, "--table", "mup", "--opt", "sgd").code == exits.OK


def test_roles_of_a_family(library):
    answer = mupcheck("roles", NEXT, "-p", "mup")
    assert answer.code == exits.OK and re.search(r"in_proj_qkvz\S* \(3\) +z .* hidden ", answer.out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("transformers:qwen3_nxt",), "family 'transformers:qwen3_nxt' is unknown; known: transformers:qwen3_next, "),
        (("no.py", "--ladder", "heads"), "--ladder is for families, and no.py is a file"),
    ],
)
def test_what_is_no_family_is_one_line(arguments, said):
    refused(said, *arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--widths", "64,100,256"),
            "width 100 is not on the ladder value-heads, whose widths are multiples of 32; nea",
        ),
        (
            ("--ladder", "nope"),
            "ladder 'nope' of transformers:qwen3_next is unknown; known: value-heads, heads, head-dim",
        ),
        (("--table", "nope"), "unknown parametrization 'nope'"),
        (("--opt", "adam"), "--opt 'adam' is unknown; known: adamw, sgd"),
        (("--ladder", "none.json"), "ladder none.json cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_option_is_one_line(library, options, said):
    refused(said, NEXT, *options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{", "ladder my.json is no JSON: "),
        ('{"a": 1}', 'ladder my.json is {"a": 1}, expected a list of configs, one for each width'),
        ("[]", "my.json lists no config"),
        ("[3]", "my.json row 1 is 3, expected a config"),
        ('[{"hidden_size": 64}, {"hidden_size": 128, "linear_num_value_head": 8}]',
         "my.json row 2: 'linear_num_value_head' is no field of Qwen3NextConfig; nearest: linear_num_value_heads"),
        ('[{"hidden_size": "64"}]', 'my.json row 1: hidden_size is "64", expected a whole number'),
        ('[{"linear_num_value_heads": 8}]', "my.json row 1: hidden_size is missing"),
        ('[{"hidden_size": 64}, {"width": 64}]', "my.json row 2: width 64 is there twice"),
        ('[{"hidden_size": 100}]', "my.json row 1: intermediate_size is missing, and width 100 is not on the ladder"),
        ('[{"hidden_size": 64}, {"hidden_size": 96}, {"hidden_size": 128}]', "width 256 is not in my.json"),
    ],
)  # fmt: skip
def test_a_malformed_ladder_names_the_row_and_the_field(library, text, said):
    Path("my.json").write_text(text)
    refused(said, NEXT, "--ladder", "my.json", *WIDTHS)


@pytest.mark.parametrize(
    ("version", "said"), [(None, "is not installed; pip install"), ("4.57.1", "is older than 5.24")]
)
def test_a_library_that_is_missing_or_old_is_one_line(monkeypatch, version, said):
    def version_of(name):
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("mupcheck.audit.library.metadata.version", version_of)
    refused(said, NEXT)


def refused(said, *arguments):
    answer = mupcheck("audit", *arguments)
    assert answer.code == exits.USAGE, answer
    assert said in answer.err and len(answer.err.strip().splitlines()) == 1, answer.err
    assert not list(Path().glob("results/*/runs/*"))
