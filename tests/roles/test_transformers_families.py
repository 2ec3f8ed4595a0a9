"""Models as transformers ships them: every parameter has a role, and the rows of fused ones have theirs."""

import pytest
import torch

from mupcheck.roles.infer import infer_roles
from mupcheck.roles.names import pattern_of
from mupcheck.theory.parametrization import Role

transformers = pytest.importorskip("transformers", minversion="5.0")

# rules of a family's ladder: heads and value heads grow, their sizes and the key heads do not
COMMON = {
    "vocab_size": 64, "num_hidden_layers": 4, "hidden_size": 1, "intermediate_size": 4, "num_attention_heads": 1 / 16,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
LINEAR = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 1 / 2, "shared_expert_intermediate_size": 1 / 2}
FAMILIES = {
    "qwen3_next": COMMON | LINEAR | EXPERTS | {"linear_num_value_heads": 1 / 8, "head_dim": 16},
    "qwen3_5_text": COMMON | LINEAR | {"linear_num_value_heads": 1 / 8, "head_dim": 16, "tie_word_embeddings": True},
    "olmo_hybrid": COMMON | LINEAR | dict.fromkeys(
        ("linear_num_key_heads", "linear_num_value_heads", "num_key_value_heads"), 1 / 16
    ),
    "kimi_linear": COMMON | {
        "moe_intermediate_size": 1 / 2, "num_local_experts": 4, "num_key_value_heads": 1 / 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "linear_head_dim": 16,
        "linear_num_heads": 1 / 16,
    },
}  # fmt: skip
GROWING = ("hidden_size", "intermediate_size")


def build(family, width):
    """Return a family's model of a width, on meta: a share of the width is a fraction, or among GROWING."""
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    given = {
        name: int(value * width) if isinstance(value, float) or name in GROWING else value
        for name, value in FAMILIES[family].items()
    }
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[family](**given))


def roles_of(family):
    found = infer_roles(build(family, 128), build(family, 64))
    assert [each.title for each in found if each.role is None] == []
    return {f"{pattern_of(each.name)} {each.part}".strip(): each for each in found}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_role(family):
    found = roles_of(family)
    assert {each.m for each in found.values()} == {2}
    assert Role.GATE_SCALAR in {each.role for each in found.values()}
    assert any(each.site == "logits" for each in found.values())
    assert any(each.site == "o_raw" for each in found.values()) and any(
        each.site == "mixer_out" for each in found.values()
    )
    for name, each in found.items():
        if name.endswith(("gate_proj.weight", "up_proj.weight", "down_proj.weight", "experts.gate_up_proj")):
            assert each.role == Role.HIDDEN, name


def test_rows_of_qwen3_next_have_their_own():
    found = roles_of("qwen3_next")
    mixer = "model.layers.*.linear_attn"
    roles = {part: found[f"{mixer}.in_proj_qkvz.weight {part}"].role for part in "qkvz"}
    assert roles == {"q": Role.GATE, "k": Role.GATE, "v": Role.HIDDEN, "z": Role.HIDDEN}
    assert {found[f"{mixer}.in_proj_ba.weight {part}"].role for part in "ba"} == {Role.GATE}
    assert found[f"{mixer}.conv1d.weight v"].role == Role.SHORT_CONV
    assert found["model.layers.*.mlp.gate.weight"].role == Role.GATE
    assert found["model.layers.*.mlp.experts.down_proj"].role == Role.HIDDEN
    assert found["model.layers.*.self_attn.q_proj.weight gate"].role == Role.HIDDEN


def test_low_rank_gates_of_kimi_linear_are_output_then_input_like():
    found = roles_of("kimi_linear")
    gate = "model.layers.*.self_attn.forget_gate"
    assert found[f"{gate}.f_a_proj.weight"].role == Role.GATE and found[f"{gate}.f_a_proj.weight"].mode == "head-dim"
    assert found[f"{gate}.f_b_proj.weight"].role == Role.EMBEDDING
    assert found[f"{gate}.A_log"].shape == (1, 1, 8, 1)


def test_the_tied_head_of_qwen3_5_is_its_embedding():
    assert roles_of("qwen3_5_text")["model.embed_tokens.weight"].tied == ("lm_head.weight",)
