"""Names that the families of models give their parameters, and how they fuse several into one.

A name never decides alone: what it says must fit how the parameter's sides grow (`mupcheck.roles.infer`). Hidden
matrices are in no list: that both sides grow says it. Read in transformers 5.24 (qwen3_next, qwen3_5, qwen3_5_moe,
qwen4_exp, olmo_hybrid, kimi_linear, bailing_hybrid), flash-linear-attention 0.6, ai2-olmo-core 3.0, torchtitan and
Megatron-LM (transformer_engine's names included).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mupcheck.roles.names import Use
from mupcheck.theory.parametrization import Role

# The last part of a name that tells something ("q_proj" of "layers.0.q_proj.weight", "A_log") -> role.
# fmt: off
KNOWN: dict[str, Role] = {
    **dict.fromkeys(("embed_tokens", "tok_embeddings", "word_embeddings", "embeddings", "embedding", "wte", "wpe",
                     "position_embeddings", "embed"), Role.EMBEDDING),
    **dict.fromkeys(("lm_head", "readout", "unembed", "unembedding", "embed_out", "output_layer",
                     "w_vocab"), Role.READOUT),
    # decay and write gates: one number per head
    **dict.fromkeys(("a_proj", "b_proj", "w_a", "w_b", "in_proj_a", "in_proj_b", "in_proj_ba"), Role.GATE),
    # routers, and the one number that gates a shared expert
    **dict.fromkeys(("router", "shared_expert_gate"), Role.GATE),
    **dict.fromkeys(("A_log", "dt_bias"), Role.GATE_SCALAR),
    **dict.fromkeys(("conv1d", "q_conv1d", "k_conv1d", "v_conv1d", "conv_q", "conv_k", "conv_v",
                     "short_conv"), Role.SHORT_CONV),
    # over a head's values, shared by all heads
    **dict.fromkeys(("o_norm", "out_norm"), Role.HEAD_NORM_GAIN),
}
# fmt: on
IN_MIXER = {"norm": Role.HEAD_NORM_GAIN}  # beside an A_log: of what the delta rule gives
OUTPUTS = ("o_proj", "out_proj", "w_out")  # of a mixer, to the residual stream
O_NORMS = ("norm", "o_norm", "out_norm")
# 3-D weights [experts, out, in] that are used functionally
EXPERTS = ("gate_up_proj", "up_proj", "down_proj")
# 3-D weights of other layouts are for the user to state


@dataclass(frozen=True)
class Fused:
    """Rows of several projections in one weight: (name, rows) in order, the whole repeated `blocks` times."""

    parts: tuple[tuple[str, int], ...]
    blocks: int = 1


def _qkvz_by_key_head(mixer: Any) -> Fused:
    """Qwen3-Next: rows of q, k, v, z of the first key head, then of the second, ..."""
    values = mixer.num_v_heads // mixer.num_k_heads * mixer.head_v_dim
    parts = (("q", mixer.head_k_dim), ("k", mixer.head_k_dim), ("v", values), ("z", values))
    return Fused(parts, mixer.num_k_heads)


def _ba_by_key_head(mixer: Any) -> Fused:
    """Qwen3-Next: rows b and a of the first key head, then of the second, ..."""
    heads = mixer.num_v_heads // mixer.num_k_heads
    return Fused((("b", heads), ("a", heads)), mixer.num_k_heads)


def _qkv(mixer: Any) -> Fused:
    """Qwen3.5, and the convolution of Qwen3-Next, OLMo-Hybrid and Megatron: all q, all k, all v."""
    keys, values = ("key_dim", "value_dim") if hasattr(mixer, "key_dim") else ("qk_dim", "v_dim")
    return Fused((("q", getattr(mixer, keys)), ("k", getattr(mixer, keys)), ("v", getattr(mixer, values))))


def _megatron_in_proj(mixer: Any) -> Fused:
    """Megatron's GatedDeltaNet: rows q, k, v, z, beta, alpha."""
    q, v, heads = mixer.qk_dim, mixer.v_dim, mixer.num_value_heads
    return Fused((("q", q), ("k", q), ("v", v), ("z", v), ("beta", heads), ("alpha", heads)))


def _query_and_gate(attention: Any) -> Fused:
    """Qwen's gated attention: rows of a head's query, then of its output gate."""
    rows, heads = attention.q_proj.weight.shape[0], attention.config.num_attention_heads
    if rows != 2 * attention.head_dim * heads:
        raise AttributeError("q_proj has no rows of a gate")
    return Fused((("query", attention.head_dim), ("gate", attention.head_dim)), heads)


FUSED: dict[str, Callable[[Any], Fused]] = {
    "in_proj_qkvz": _qkvz_by_key_head,
    "in_proj_ba": _ba_by_key_head,
    "in_proj_qkv": _qkv,
    "conv1d": _qkv,
    "in_proj": _megatron_in_proj,
    "q_proj": _query_and_gate,
}
# what a part of a fused weight is, where its name alone says more than its growth
PARTS = {"a": Role.GATE, "b": Role.GATE, "alpha": Role.GATE, "beta": Role.GATE}


def in_mixer(use: Use) -> bool:
    """Say whether a parameter is one of a gated delta rule's: beside an A_log, or in a module beside one."""
    places = (use.module, use.parent, getattr(use.parent, "forget_gate", None))  # the last: Kimi's A_log is there
    return any("A_log" in each._parameters for each in places if each is not None)


def fused_of(name: str, parent: Any, rows: int) -> Fused | None:
    """Return how a weight of a known name is fused; None where it is not, or its module is of no known family."""
    if name not in FUSED:
        return None
    try:
        fused = FUSED[name](parent)
    except (AttributeError, TypeError, ZeroDivisionError):  # another library's module of that name
        return None
    return fused if sum(n for _, n in fused.parts) * fused.blocks == rows else None
