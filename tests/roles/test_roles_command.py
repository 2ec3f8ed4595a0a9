"""mupcheck roles FILE.py: what it prints of a user's model, and what it says of one that cannot be."""

import pytest
from commands import mupcheck

MODEL = """
import torch
from torch import nn

{more}

class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.qkv, self.router = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, 4, bias=False)
        self.norm, self.scale = nn.RMSNorm(d), nn.Parameter(torch.ones(2))

class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.d, self.tokens = d, nn.Embedding(100, d)
        self.blocks, self.head = nn.ModuleList(Block(d) for _ in range(3)), nn.Linear(d, 100, bias=False)

def build(width):
    return Model(width)
"""
ROLES = """
def roles(model):
    return {"blocks.*.qkv.weight": [("q", model.d), ("kv", 2 * model.d)], "*.scale": "head_norm_gain"}
"""
OPTIMIZER = """
def optimizer(model):
    hidden = [block.qkv.weight for block in model.blocks[1:]]
    rest = [model.head.weight, model.tokens.weight, *(block.router.weight for block in model.blocks)]
    groups = [{"params": hidden, "lr": 0.1 / model.d}, {"params": rest, "lr": 0.1, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups)
"""


@pytest.fixture
def file(tmp_path):
    def write(*more, name="mine.py"):
        (tmp_path / name).write_text(MODEL.format(more="\n".join(more)))
        return str(tmp_path / name)

    return write


def rows(out):
    return {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if " x " in line}


def test_it_prints_a_row_for_each_kind_of_parameter(file):
    answer = mupcheck("roles", file(ROLES), "-p", "mup,sp")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == "Powers of width of init std and lr under adamw, from width 64 to 128:"
    (q,) = (" ".join(line.split()) for line in lines if "blocks.*.qkv.weight (3) " in line and " q " in line)
    # init as torch's Linear has it; without an optimizer of the user's no lr
    assert q.startswith("blocks.*.qkv.weight (3) q 64 x 64 128 x 128 +1 +1 hidden -1/2 -1 0 0 -1/2 ? ")
    found = rows(answer.out)
    assert found["tokens.weight"].startswith("tokens.weight 100 x 64 100 x 128 0 +1 embedding 0 0 0 0 0 ? only")
    assert "gate -1/2 -1 0 0 -1/2 ?" in found["blocks.*.router.weight"]
    assert "readout -1 -1 0 0 -1/2 ? !" in found["head.weight"]
    assert "blocks.*.scale (3)" in answer.out and "stated" in answer.out


def test_what_is_unclear_is_asked_about(file):
    answer = mupcheck("roles", file())
    assert answer.code == 3
    assert "? blocks.*.scale: a vector of fixed length: state gate_scalar" in answer.out


def test_what_the_optimizer_does_is_read_from_it(file):
    answer = mupcheck("roles", file(ROLES, OPTIMIZER), "-p", "mup", "--json").json
    parameters = {(row["name"], row["part"]): row for row in answer["parameters"]}
    assert answer["widths"] == [64, 128] and answer["optimizer"] == "adamw"
    # the first block's was forgotten
    assert parameters["blocks.0.qkv.weight", "q"]["in_optimizer"] is False
    held = parameters["blocks.*.qkv.weight", "q"]
    assert held["in_optimizer"] and held["own"] == pytest.approx({"init": -0.5, "lr": -1.0}) and not held["off"]
    router = parameters["blocks.*.router.weight", ""]
    assert router["own"]["lr"] == 0 and router["rules"]["mup"]["lr"] == -1 and router["off"]
    assert "not in the optimizer !" in mupcheck("roles", file(ROLES, OPTIMIZER), "-p", "mup").out


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ("", ("--widths", "64"), "--widths '64' is not two widths, the smaller first; try 64,128"),
        ("", ("--widths", "128,64"), "is not two widths"),
        ("", ("--opt", "muon"), "--opt 'muon' is unknown; known: adamw, sgd"),
        ("roles = {'*.router.weight': 'hidden'}", (), "blocks.0.router.weight is stated to be hidden, both sides of"),
        ("roles = 3", (), "roles is an int, expected names with roles"),
        ("roles = lambda model: model.nothing", (), "raised AttributeError: 'Model' object has no attribute 'nothing'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(file, more, options, said):
    answer = mupcheck("roles", file(more), *options)
    assert answer.code == 2 and answer.out == ""
    assert said in answer.err.splitlines()[-1]


def test_a_build_that_ignores_its_width_is_told(tmp_path):
    (tmp_path / "same.py").write_text("from torch import nn\ndef build(width):\n    return nn.Linear(8, 8)\n")
    answer = mupcheck("roles", str(tmp_path / "same.py"))
    assert answer.code == 2 and "see that build(width) uses its width" in answer.err


def test_heads_of_attention_that_grow_are_noted(tmp_path):
    def write(heads):
        text = (
            "from torch import nn\n\ndef build(d):\n    return nn.ModuleDict({'tokens': nn.Embedding(9, d), 'layers': "
        )
        text += f"nn.ModuleList([nn.ModuleDict({{'attn': nn.MultiheadAttention(d, {heads})}})])}})\n"
        (tmp_path / "attention.py").write_text(text)
        return mupcheck("roles", str(tmp_path / "attention.py"), "-p", "mup").out

    assert "note: layers.*.attn: its heads grow from 16 to 32; muP divides q.k by the size" in write("4")
    assert "note" not in write("d // 16")
