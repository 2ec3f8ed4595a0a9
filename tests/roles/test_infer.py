"""Roles from shapes at two widths, for what models are made of; beside each a control that is asked about."""

import pytest
import torch
from plain_gdn import PlainGDN, plain_name
from small_results import refusal
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from mupcheck.model.build import build_model, named_weights
from mupcheck.roles.infer import fused_rows, infer_roles
from mupcheck.spec.model import ModelSpec
from mupcheck.theory.parametrization import Role

VOCAB, HEAD = 50, 16


def net(**parts):
    return nn.ModuleDict(parts)


class Holder(nn.Module):
    """Bare parameters."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))


def transformer(d, kv=None, bias=True):
    kv = kv or d
    layer = net(
        ln_1=nn.LayerNorm(d),
        attn=net(
            wq=nn.Linear(d, d, bias), wk=nn.Linear(d, kv, bias), wv=nn.Linear(d, kv, bias), wo=nn.Linear(d, d, bias)
        ),
        ln_2=nn.LayerNorm(d),
        mlp=net(up=nn.Linear(d, 4 * d, bias), down=nn.Linear(4 * d, d, bias)),
    )
    return net(
        tokens=nn.Embedding(VOCAB, d), places=nn.Embedding(32, d), blocks=nn.ModuleList([layer]), ln=nn.LayerNorm(d),
        head=nn.Linear(d, VOCAB),
    )  # fmt: skip


def in_block(part):
    """Return a build that puts what `part(d)` makes into a block of a model with an embedding."""
    return lambda d: net(tokens=nn.Embedding(VOCAB, d), blocks=nn.ModuleList([net(part=part(d))]))


def roles_of(build, roles=None, widths=(64, 128)):
    """Return role by name and part, without what stands around the part of `in_block`."""
    base, model = (build(width) for width in widths)
    found = infer_roles(model, base, roles=roles)
    return {" ".join(filter(None, (each.name.removeprefix("blocks.0.part."), each.part))): each for each in found}


def role(build, name, **more):
    each = roles_of(build, **more)[name]
    assert (each.role is None) == bool(each.question)
    return each.role and (str(each.role), each.mode, each.m)


def question(build, name, **more):
    return roles_of(build, **more)[name].question


# --- a plain transformer ----------------------------------------------------------------------------------------------


def test_a_plain_transformer():
    found = {name: each.role for name, each in roles_of(transformer).items()}
    assert found.pop("tokens.weight") == found.pop("places.weight") == Role.EMBEDDING
    assert found.pop("head.weight") == Role.READOUT
    matrices = {name for name in found if name.endswith("weight") and "ln" not in name}
    assert {found.pop(name) for name in matrices} == {Role.HIDDEN} and len(matrices) == 6
    # gains and biases, that of the readout, which does not grow, among them
    assert set(found.values()) == {Role.NORM_GAIN}
    assert roles_of(transformer)["head.bias"].m == 1
    assert roles_of(transformer)["ln.weight"].m == 2


def test_a_tied_head_is_an_embedding_with_a_readout():
    def tied(d):
        model = transformer(d)
        model["head"].weight = model["tokens"].weight
        return model

    found = roles_of(tied)
    assert "head.weight" not in found
    assert found["tokens.weight"].role == Role.EMBEDDING
    assert (found["tokens.weight"].tied, found["tokens.weight"].site) == (("head.weight",), "logits")


def test_weights_shared_by_what_wants_different_settings_are_asked_about():
    def odd(d):
        model = transformer(d)
        model["blocks"][0]["copy"] = nn.Linear(d, VOCAB, bias=False)
        model["blocks"][0]["copy"].weight = model["tokens"].weight
        return model

    asked = question(odd, "tokens.weight")
    assert asked == (
        "it is shared, as tokens.weight (embedding) and as blocks.0.copy.weight (gate), which want different settings; "
        "untie them"
    )
    assert "number of rows grows" in question(lambda d: net(tokens=nn.Embedding(d, d)), "tokens.weight")

    def same(d):
        model = transformer(d)
        model["blocks"][0]["attn"]["wk"].weight = model["blocks"][0]["attn"]["wq"].weight
        return model

    assert role(same, "blocks.0.attn.wq.weight") == ("hidden", "heads", 2)


def test_a_projection_to_a_fixed_number_of_heads_is_output_like():
    found = roles_of(lambda d: transformer(d, kv=32))
    for name in ("wk", "wv"):
        assert (found[f"blocks.0.attn.{name}.weight"].role, found[f"blocks.0.attn.{name}.weight"].mode) == (
            Role.GATE,
            "head-dim",
        )
        assert found[f"blocks.0.attn.{name}.bias"].role == Role.GATE_SCALAR
    assert found["blocks.0.attn.wq.weight"].role == Role.HIDDEN


# --- our own model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
@pytest.mark.parametrize("tied", [False, True])
def test_our_own_model_in_plain_torch_has_the_roles_that_ours_states(mode, tied):
    specs = [ModelSpec(width=w, base_width=16, mode=mode, tied=tied, n_layers=2) for w in (16, 32)]
    found = {each.name: each for each in infer_roles(*(PlainGDN(spec) for spec in specs[::-1]))}
    stated = {plain_name(site, layer): w.role for site, layer, w in named_weights(build_model(specs[1], "meta"))}
    assert {name: each.role for name, each in found.items()} == stated
    assert {each.mode for each in found.values()} == {mode}
    assert {each.m for each in found.values()} == {2}


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
def test_our_own_model_says_its_roles_itself(mode):
    models = [build_model(ModelSpec(width=w, base_width=16, mode=mode, n_layers=2), "meta") for w in (32, 16)]
    found = infer_roles(*models)
    assert [each.role for each in found] == [weight.role for _, _, weight in named_weights(models[0])]
    assert {each.mode for each in found} == {mode} and {each.m for each in found} == {2}
    assert next(each for each in found if "v_conv1d" in each.name).growth == (0, 1)


# --- what blocks are made of ------------------------------------------------------------------------------------------


def test_depthwise_and_full_convolutions():
    depthwise = in_block(lambda d: nn.Conv1d(d, d, 4, groups=d))
    assert role(depthwise, "weight") == ("short_conv", "heads", 2)
    assert role(depthwise, "bias") == ("norm_gain", "heads", 2)
    full = in_block(lambda d: net(conv1d=nn.Conv1d(d, d, 4)))
    assert role(full, "conv1d.weight") == ("hidden", "heads", 2), "its name does not make it depthwise"
    assert roles_of(full)["conv1d.weight"].fan_in == (256, 512)
    # of a fixed number of channels
    fixed = in_block(lambda d: net(a=nn.Linear(d, d), conv=nn.Conv1d(8, 8, 4, groups=8, bias=False)))
    assert role(fixed, "conv.weight") == ("gate_scalar", "head-dim", 2)


def test_a_router_is_output_like_and_low_rank_gates_output_then_input_like():
    def moe(d):
        return net(router=nn.Linear(d, 4), gate=net(a=nn.Linear(d, HEAD), b=nn.Linear(HEAD, d)))

    found = {name: each.role for name, each in roles_of(in_block(moe)).items() if name.startswith(("router", "gate"))}
    assert found == {
        "router.weight": Role.GATE,
        "router.bias": Role.GATE_SCALAR,
        "gate.a.weight": Role.GATE,
        "gate.a.bias": Role.GATE_SCALAR,
        "gate.b.weight": Role.EMBEDDING,
        "gate.b.bias": Role.NORM_GAIN,
    }


def test_outside_of_blocks_what_is_mapped_to_something_else_than_tokens_is_asked_about():
    def build(d, n=VOCAB, name="out"):
        return net(tokens=nn.Embedding(VOCAB, d), **{name: nn.Linear(d, n, bias=False)})

    assert role(build, "out.weight")[0] == "readout"
    assert "state readout, or gate" in question(lambda d: build(d, n=7), "out.weight")
    assert role(lambda d: build(d, 7, "lm_head"), "lm_head.weight")[0] == "readout"
    assert role(lambda d: build(d, 7), "out.weight", roles={"out.*": "readout"})[0] == "readout"


def test_experts_of_three_axes():
    def experts(d):
        return net(experts=Holder(gate_up_proj=(4, 2 * d, d), down_proj=(4, d, d)), other=Holder(mix=(4, d, d)))

    found = roles_of(in_block(experts))
    assert found["experts.down_proj"].role == found["experts.gate_up_proj"].role == Role.HIDDEN
    assert found["experts.gate_up_proj"].fan_out == (128, 256)
    assert found["other.mix"].role is None and "three and more axes" in found["other.mix"].question


def test_bare_matrices():
    build = in_block(lambda d: Holder(square=(d, d), up=(8, d), head_scale=(4,), A_log=(1, 1, d // HEAD, 1)))
    assert role(build, "square") == ("hidden", "heads", 2)
    assert role(build, "A_log") == ("gate_scalar", "heads", 2)
    assert "of which one side grows" in question(build, "up")
    assert "a vector of fixed length" in question(build, "head_scale")
    # [in, out] or [out, in], as its role says
    stated = {"*.up": "embedding", "*.head_scale": "head_norm_gain"}
    assert roles_of(build, roles=stated)["up"].fan_in == (8, 8)
    assert role(build, "head_scale", roles=stated) == ("head_norm_gain", "heads", 2)
    assert roles_of(build, roles={"*.up": "gate"})["up"].fan_in == (64, 128)


def test_a_matrix_of_which_no_side_grows_stays_as_it_is():
    build = in_block(lambda d: net(big=nn.Linear(d, d), mix=nn.Linear(HEAD, HEAD, bias=False)))
    assert role(build, "mix.weight") == ("head_norm_gain", "heads", 2)


def test_a_name_that_its_growth_contradicts_is_asked_about():
    build = in_block(lambda d: net(embedding=nn.Linear(d, d, bias=False), lm_head=nn.Linear(d, d, bias=False)))
    asked = question(build, "embedding.weight")
    assert asked == "embedding would be embedding, whose fan-in does not grow; here both sides grow; state its role"
    assert "lm_head would be readout" in question(build, "lm_head.weight")
    assert role(build, "lm_head.weight", roles={"*.lm_head.weight": "hidden"}) == ("hidden", "heads", 2)


# --- rows of fused weights --------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """The shapes of Qwen3-Next's mixer: 2 key heads at every width, value heads that grow."""

    def __init__(self, d):
        super().__init__()
        self.num_k_heads, self.head_k_dim, self.head_v_dim, self.num_v_heads = 2, 8, 8, d // 16
        rows = 2 * self.num_k_heads * self.head_k_dim + 2 * self.num_v_heads * self.head_v_dim
        self.in_proj_qkvz = nn.Linear(d, rows, bias=False)
        self.in_proj_ba = nn.Linear(d, 2 * self.num_v_heads, bias=False)
        self.A_log = nn.Parameter(torch.zeros(self.num_v_heads))
        self.norm = nn.RMSNorm(self.head_v_dim)
        self.out_proj = nn.Linear(self.num_v_heads * self.head_v_dim, d, bias=False)


def test_a_known_fused_projection_is_cut_into_its_rows():
    found = roles_of(in_block(Mixer))
    fused = {name: (str(each.role), each.shape) for name, each in found.items() if name.startswith("in_proj")}
    assert fused == {
        "in_proj_qkvz.weight q": ("gate", (16, 128)),
        "in_proj_qkvz.weight k": ("gate", (16, 128)),
        "in_proj_qkvz.weight v": ("hidden", (64, 128)),
        "in_proj_qkvz.weight z": ("hidden", (64, 128)),
        "in_proj_ba.weight b": ("gate", (8, 128)),
        "in_proj_ba.weight a": ("gate", (8, 128)),
    }
    assert (found["in_proj_qkvz.weight q"].mode, found["in_proj_ba.weight b"].mode) == ("head-dim", "heads")
    # by key head: 8 q, 8 k, 32 v, 32 z, and again
    assert found["in_proj_qkvz.weight v"].rows == ((16, 48), (96, 128))
    assert found["in_proj_qkvz.weight v"].base_rows == ((16, 32), (64, 80))
    assert (found["norm.weight"].site, found["out_proj.weight"].site) == ("o_raw", "mixer_out")


def test_rows_of_one_model_alone():
    found = fused_rows(in_block(Mixer)(128))
    assert set(found) == {"blocks.0.part.in_proj_qkvz.weight", "blocks.0.part.in_proj_ba.weight"}
    assert found["blocks.0.part.in_proj_ba.weight"] == {"b": ((0, 4), (8, 12)), "a": ((4, 8), (12, 16))}
    assert fused_rows(transformer(64)) == {}


def test_a_module_of_that_name_that_is_built_otherwise_is_not_cut():
    found = roles_of(in_block(lambda d: net(in_proj_qkvz=nn.Linear(d, 3 * d, bias=False))))
    assert found["in_proj_qkvz.weight"].role == Role.HIDDEN and not found["in_proj_qkvz.weight"].rows


def fused(d):
    return net(wqkv=nn.Linear(d, d + 2 * HEAD, bias=False))


def test_rows_that_the_user_states():
    def roles(model):
        d = model["tokens"].embedding_dim
        return {"*.wqkv.weight": [("q", d), ("k", HEAD), ("v", HEAD, "gate")]}

    def blocks(model):
        rows = len(model["blocks"][0]["part"]["wqkv"].weight)
        return {"*.wqkv.weight": {"parts": [("a", 8), ("b", 8)], "blocks": rows // 16}}

    found = roles_of(in_block(fused), roles=roles)
    assert [str(found[f"wqkv.weight {part}"].role) for part in "qkv"] == ["hidden", "gate", "gate"]
    assert found["wqkv.weight v"].rows == ((144, 160),)
    assert roles_of(in_block(fused), roles=blocks)["wqkv.weight a"].rows[:2] == ((0, 8), (16, 24))


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (
            {"*.wqkv.weight": [("q", 64), ("k", 16)]},
            "the parts of blocks.0.part.wqkv.weight have 80 rows, and it has 160",
        ),
        ({"*.wqkv.weight": [("q", 144), ("q", 16)]}, "give each part once"),
        ({"*.wqkv.weight": [("q", "many")]}, "neither a role nor rows in order"),
        ({"*.wqkv.weight": "hiden"}, "blocks.0.part.wqkv.weight = the string 'hiden' is no role; known: embedding, "),
        ({"*.wqkv.weight": "embedding"}, "is stated to be embedding, whose fan-in does not grow; here both sides grow"),
        ({"*.wqkv.weight": "norm_gain"}, "is stated to be norm_gain, which is a vector; here both sides grow"),
        ({"*.wqv.weight": "hidden"}, "no parameter is called the string '*.wqv.weight'"),
        (["hidden"], "roles is a list, expected names with roles"),
    ],
)
def test_what_is_stated_wrongly_is_refused(stated, said):
    assert said in refusal(roles_of, in_block(fused), roles=stated)


# --- two models that are not one --------------------------------------------------------------------------------------


def test_what_is_not_one_model_at_two_widths_is_refused():
    assert refusal(infer_roles, transformer(64), transformer(64)).startswith("the two models have the same shapes")
    deeper = transformer(128)
    deeper["blocks"].append(nn.Linear(3, 3))
    assert "parameter blocks.1.bias is in the model alone" in refusal(infer_roles, deeper, transformer(64))
    assert "model is None, expected a torch.nn.Module" in refusal(infer_roles, None, transformer(64))
    assert "without parameters" in refusal(infer_roles, nn.ReLU(), transformer(64))


def test_growth_that_no_rule_explains_is_asked_about():
    for size, power in ((lambda d: d * d // 64, "2"), (lambda d: 4096 // d, "-1")):
        asked = question(in_block(lambda d, size=size: nn.Linear(d, size(d), bias=False)), "weight")
        assert asked.startswith(f"its fan-out grows as width^{power},")
    # rounded to what a kernel likes
    rounded = in_block(lambda d: nn.Linear(d, (8 * d // 3 + 31) // 32 * 32, bias=False))
    assert role(rounded, "weight") == ("hidden", "heads", 2)


def test_names_are_those_without_wrappers():
    checkpointed = transformer(128)
    checkpointed["blocks"][0] = checkpoint_wrapper(checkpointed["blocks"][0])
    plain = [each.name for each in infer_roles(transformer(128), transformer(64))]
    for wrapped in (torch.compile(transformer(128)), nn.DataParallel(transformer(128)), checkpointed):
        assert [each.name for each in infer_roles(wrapped, transformer(64))] == plain


def test_shapes_are_enough():
    with torch.device("meta"):
        found = infer_roles(transformer(128), transformer(64))
    assert [each.role for each in found] == [each.role for each in roles_of(transformer).values()]
