"""What a model is: its shape at one width."""

import math
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mupcheck.spec.described import set_help


class Frozen(BaseModel):
    """Base of every spec: it cannot change, and takes no key, type or infinity that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        set_help(cls)


MAX_INT = 2**31 - 1  # the most that a column of results holds
PositiveInt = Annotated[int, Field(gt=0, le=MAX_INT)]
Natural = Annotated[int, Field(ge=0, le=MAX_INT)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a column of int64
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


class Shape(Frozen):
    """What of a model does not change with width; head sizes and stds are those at the base width."""

    mode: Literal["head-dim", "heads"] = Field(default="head-dim", description="what grows with width: K and V, or H")
    n_layers: PositiveInt = Field(default=1, description="blocks")
    n_heads: PositiveInt = Field(default=2, description="heads at the base width")
    head_k_dim: PositiveInt | None = Field(
        default=None, description="K at the base width (default: 0.75 width / heads)"
    )
    head_v_dim: PositiveInt | None = Field(default=None, description="V at the base width (default: 2 K)")
    mlp_ratio: PositiveInt = Field(default=4, description="MLP hidden size / width")
    conv_size: PositiveInt = Field(default=4, description="taps of the short convolutions")
    tied: bool = Field(default=False, description="readout shares the embedding's weight")
    embedding_std: PositiveFloat | None = Field(default=None, description="embedding std (default: 1 untied, 0.5 tied)")
    projection_std: PositiveFloat | None = Field(
        default=None,
        description="std of projections and gates at the base width (default: projection_factor / sqrt(fan_in))",
    )
    projection_factor: PositiveFloat = Field(
        default=1.0, description="factor on the default std of projections and gates"
    )
    conv_std: PositiveFloat = Field(default=0.5, description="std of the short convolutions' taps")
    readout_std: NonNegativeFloat = Field(default=0.0, description="std of an untied readout at the base width")
    logit_scale: PositiveFloat = Field(default=1.0, description="constant factor on the logits")
    norm_eps: NonNegativeFloat = Field(default=1e-6, description="eps of every RMSNorm")


class ModelSpec(Shape):
    """A Gated DeltaNet language model at one width.

    Raises:
        ValueError: if the width does not give whole head sizes in the mode.
    """

    width: PositiveInt
    base_width: PositiveInt
    vocab_size: PositiveInt = 256

    @property
    def m(self) -> float:
        """Return width / base_width."""
        return self.width / self.base_width

    @property
    def std_of_embedding(self) -> float:
        """Return the std of the embedding at the base width."""
        return self.embedding_std or (0.5 if self.tied else 1.0)

    @cached_property
    def base_heads(self) -> tuple[int, int, int]:
        """Return (H, K, V) at the base width."""
        k_dim = self.head_k_dim
        if k_dim is None:
            k_dim, rest = divmod(3 * self.base_width, 4 * self.n_heads)
            if rest or not k_dim:
                raise ValueError(
                    f"n_heads={self.n_heads} does not divide 3/4 of base_width={self.base_width}; "
                    f"give head_k_dim and head_v_dim, or try a base_width that is a multiple of {4 * self.n_heads}"
                )
        return self.n_heads, k_dim, self.head_v_dim or 2 * k_dim

    @cached_property
    def heads(self) -> tuple[int, int, int]:
        """Return (H, K, V) at this width."""
        h, k, v = self.base_heads
        sizes = (k, v) if self.mode == "head-dim" else (h,)
        if any(self.width * size % self.base_width for size in sizes):
            step = self.base_width // math.gcd(self.base_width, *sizes)
            grown = "K={}, V={}".format(*sizes) if self.mode == "head-dim" else f"{h} heads"
            below = self.width // step * step
            raise ValueError(
                f"width {self.width} is not allowed in {self.mode} mode: {grown} at base_width {self.base_width} must "
                f"grow to whole numbers; try {below or step} or {below + step}"
            )
        if self.mode == "heads":
            return h * self.width // self.base_width, k, v
        return h, k * self.width // self.base_width, v * self.width // self.base_width

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        _ = self.heads
        return self
