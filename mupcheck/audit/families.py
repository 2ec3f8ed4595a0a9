"""Families of models that need no file: a library's own classes, their configs made by one rule for every width.

A row of FAMILIES says what stays and what is a share of the width, tiny enough for a CPU: vocabulary 256, four layers,
heads of 16. Names and classes were read in transformers 5.24 and flash-linear-attention 0.6. A family becomes the same
thing that a user's file does (`user_file.UserModel`), and goes the same way from there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from mupcheck.audit.ladder import Ladder, file_ladder, rule_ladder
from mupcheck.audit.library import LIBRARIES, config_class, model_from, version_of
from mupcheck.audit.user_file import UserModel, read_model_file
from mupcheck.theory.topics import nearest

WHOLE, QUARTER, EIGHTH, SIXTEENTH = Fraction(1), Fraction(1, 4), Fraction(1, 8), Fraction(1, 16)
Fields = Mapping[str, Any]  # of a config: a Fraction is a share of the width, anything else stays


@dataclass(frozen=True)
class Family:
    """Models of one class.

    Attributes:
        library, kind: whose, and the model_type of their config.
        fields: of the config on every ladder; a Fraction is a share of the width.
        ladders: what else grows, by name of the ladder; the first one is the default.
        divide: (field, other or number): the former is a multiple of the latter.
    """

    library: str
    kind: str
    fields: Fields
    ladders: Mapping[str, Fields]
    divide: tuple[tuple[str, str | int], ...] = ()


# TINY["hidden_size"] is the width
TINY: Fields = {
    "vocab_size": 256, "num_hidden_layers": 4, "hidden_size": WHOLE, "intermediate_size": 4 * WHOLE, "use_cache": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
ATTENTION_HEADS: Fields = {"num_attention_heads": SIXTEENTH, "num_key_value_heads": 2, "head_dim": 16}
ATTENTION_HEAD_DIM: Fields = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": QUARTER}
LINEAR_HEADS: Fields = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_value_heads": EIGHTH}
QWEN_LADDERS: dict[str, Fields] = {
    # as Qwen3.5 grows: key heads and their size stay at every size, value heads grow
    "value-heads": {**ATTENTION_HEADS, **LINEAR_HEADS, "linear_num_key_heads": 4},
    "heads": {**ATTENTION_HEADS, **LINEAR_HEADS, "linear_num_key_heads": SIXTEENTH},
    "head-dim": {
        **ATTENTION_HEAD_DIM, "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": QUARTER,
        "linear_value_head_dim": QUARTER,
    },
}  # fmt: skip
QWEN_DIVIDE = (
    ("linear_num_value_heads", "linear_num_key_heads"),
    ("num_attention_heads", "num_key_value_heads"),
    ("head_dim", 8),  # a quarter of a head is turned by its position, in pairs
)

FAMILIES: dict[str, Family] = {
    "transformers:qwen3_next": Family(
        "transformers", "qwen3_next",
        {**TINY, "num_experts": 0, "moe_intermediate_size": WHOLE / 2, "shared_expert_intermediate_size": WHOLE / 2},
        QWEN_LADDERS, QWEN_DIVIDE,
    ),
    "transformers:qwen3_5": Family(
        "transformers", "qwen3_5_text", {**TINY, "tie_word_embeddings": True}, QWEN_LADDERS, QWEN_DIVIDE
    ),
    "transformers:olmo_hybrid": Family(
        "transformers", "olmo_hybrid", TINY,
        {
            "heads": {
                **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "linear_num_key_heads"), SIXTEENTH),
                "linear_num_value_heads": SIXTEENTH, "linear_key_head_dim": 12, "linear_value_head_dim": 24,
            },
            "head-dim": {
                **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "linear_num_key_heads"), 4),
                "linear_num_value_heads": 4, "linear_key_head_dim": Fraction(3, 16),
                "linear_value_head_dim": Fraction(3, 8),
            },
        },
        (("hidden_size", 32),),
    ),
    "transformers:kimi_linear": Family(
        "transformers", "kimi_linear",
        {
            **TINY, "moe_intermediate_size": WHOLE / 2, "num_local_experts": 4, "num_experts_per_tok": 2,
            "qk_rope_head_dim": 8,
        },
        {
            "heads": {
                **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "linear_num_heads"), SIXTEENTH),
                "linear_head_dim": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "v_head_dim": 16,
            },
            "head-dim": {
                **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "linear_num_heads"), 4),
                "linear_head_dim": QUARTER, "kv_lora_rank": QUARTER, "qk_nope_head_dim": EIGHTH, "v_head_dim": QUARTER,
            },
        },
    ),
    "fla:gated_deltanet": Family(
        "fla", "gated_deltanet",
        {
            "vocab_size": 256, "num_hidden_layers": 4, "hidden_size": WHOLE, "intermediate_size": 4 * WHOLE,
            "use_cache": False, "expand_v": 2, "attn_mode": "chunk", "fuse_norm": False, "fuse_swiglu": False,
            "fuse_cross_entropy": False,
        },
        {"heads": {"num_heads": WHOLE / 32, "head_dim": 24}, "head-dim": {"num_heads": 2, "head_dim": Fraction(3, 8)}},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """What a user named: the model, and the start of the name of its results."""

    user: UserModel
    name: str

    def name_with(self, table: str | None, optimizer: str | None) -> str:
        """Return the name of results under a table and an optimizer, where these are given."""
        parts = (self.name, Path(table).stem if table else "", optimizer if optimizer and optimizer != "adamw" else "")
        return "-".join(part for part in parts if part)


def model_named(target: str, ladder: str | None = None) -> Named:
    """Return what a user named: a Python file, or a family.

    Raises:
        ValueError: as `read_model_file` and `family_model` do, or if a ladder is given for a file.
        UserCodeError: if the file raises when it is imported.
    """
    if not is_family(target):
        if ladder is not None:
            raise ValueError(f"--ladder is for families, and {target} is a file, whose build(width) says how it grows")
        path = Path(target)
        return Named(read_model_file(path), path.stem)
    user = family_model(target, ladder)
    short = target.partition(":")[2]
    return Named(user, short if ladder is None else f"{short}-{Path(ladder).stem}")


def is_family(target: str) -> bool:
    """Say whether what a user gave is the name of a family and no file."""
    library, colon, kind = target.partition(":")
    return bool(colon) and not kind.endswith(".py") and (library in LIBRARIES or not Path(target).exists())


def family_model(target: str, ladder: str | None = None) -> UserModel:
    """Return a family as what a user's file gives.

    Args:
        target: such as "transformers:qwen3_next".
        ladder: one of the family's, or a JSON file with a list of configs; None is the family's own.

    Raises:
        ValueError: if the family is unknown, its library cannot be used here, or the ladder is none.
    """
    if target not in FAMILIES:
        near = nearest(target, tuple(FAMILIES))
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"family {target!r} is unknown; known: {', '.join(FAMILIES)}{hint}")
    family = FAMILIES[target]
    library = version_of(family.library)
    chosen = _ladder(family, target, next(iter(family.ladders)) if ladder is None else ladder)
    provenance = {"family": target, "library": library, "ladder": chosen.name, "configs": chosen.digest}
    return UserModel(
        target, partial(build, family, chosen), sources=sha256(repr(sorted(provenance.items())).encode()).hexdigest(),
        provenance=provenance, refuses=chosen.refuses, offers=chosen.offers,
    )  # fmt: skip


def build(family: Family, ladder: Ladder, width: int) -> nn.Module:
    """Return a family's model of a width on a ladder."""
    return model_from(family.library, family.kind, ladder.fields(width))


def _ladder(family: Family, target: str, name: str) -> Ladder:
    first = next(iter(family.ladders))
    if name in family.ladders:
        return rule_ladder(name, {**family.fields, **family.ladders[name]}, family.divide)
    if name.endswith(".json"):
        rule = rule_ladder(first, {**family.fields, **family.ladders[first]}, family.divide)
        return file_ladder(Path(name), rule, config_class(family.library, family.kind))
    known = ", ".join(family.ladders)
    raise ValueError(f"ladder {name!r} of {target} is unknown; known: {known}, or a .json file with a list of configs")
