"""What runs say of the model that they trained: with what its weights are drawn, and how large they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import Any

import pandas as pd

from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import Role

# what a norm makes, and its gain; q and k have none
GAINS = {"norm1": "norm1_gain", "norm2": "norm2_gain", "final_norm": "final_norm_gain", "o_norm": "o_norm_gain"}


@dataclass(frozen=True)
class Spec:
    """What a run of one width says of its model; NaN stands for what files of older versions do not say."""

    run: Mapping[str, Any]

    def of(self, name: str) -> float:
        """Return a setting as a number."""
        value = self.run.get(name)
        return nan if value is None or pd.isna(value) else float(value)

    @property
    def m(self) -> float:
        """Return width / base_width."""
        return self.of("width") / self.of("base_width")

    def std(self, site: str) -> float:
        """Return the std (of a gain: the value) that a weight is drawn with at the base width."""
        role = PARAMETERS[site].role
        if isnan(self.of("accumulation")) or role is Role.GATE_SCALAR:
            return nan
        if site in GAINS.values():
            return 1.0
        if role is Role.SHORT_CONV:
            return self.of("conv_std")
        if site in ("embedding", "readout"):
            return self.of(f"{site}_std")
        if not isnan(said := self.of("projection_std")):
            return said
        base = self.of("base_width")
        mixed = self.of("n_heads") * self.of("head_v_dim") / self.m  # one of the two grows with width
        fan_in = {"down_proj": self.of("mlp_ratio") * base, "o_proj": mixed}.get(site, base)
        return self.of("projection_factor") / sqrt(fan_in)

    def n_outputs(self, site: str) -> float:
        """Return how many columns a layer's matrix has."""
        heads = self.of("n_heads")
        keys, values = heads * self.of("head_k_dim"), heads * self.of("head_v_dim")
        sizes = {"q_proj": keys, "k_proj": keys, "v_proj": values, "a_proj": heads, "b_proj": heads}
        hidden = self.of("mlp_ratio") * self.of("width")
        sizes |= {"g_proj": values, "gate_proj": hidden, "up_proj": hidden, "readout": self.of("vocab_size")}
        sizes |= dict.fromkeys(("embedding", "down_proj", "o_proj"), self.of("width"))
        return sizes[site]
