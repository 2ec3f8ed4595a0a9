"""What a run is: one model, and everything that determines the numbers of its training."""

import hashlib
import json
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mupcheck.spec.model import Frozen, ModelSpec, Natural, NonNegativeFloat, PositiveFloat, PositiveInt, Seed
from mupcheck.theory.parametrization import Table, rules_hash

# Raised when the same spec would give other numbers than before, so that old results are not taken for new ones.
NUMERICS = 2


class Training(Frozen):
    """How a run is trained; the same for all runs of a sweep."""

    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="sgd is Nesterov momentum")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="SGD's Nesterov momentum")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="AdamW's decay of the mean")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.95, description="AdamW's decay of the mean square")
    eps: PositiveFloat = Field(default=1e-8, description="AdamW's eps at the base width")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="weight decay at the base width")
    decay_mode: Literal["coupled", "independent"] = Field(
        default="coupled",
        description="coupled: torch's, fades as lr does; independent: lr * decay the same at every width",
    )
    clip: NonNegativeFloat = Field(default=0.0, description="largest global gradient norm (0: no clipping)")
    schedule: Literal["constant", "cosine", "linear"] = Field(default="constant", description="lr after warm-up")
    warmup_steps: Natural = Field(default=0, description="steps of linear warm-up")
    min_lr: NonNegativeFloat = Field(default=0.0, description="lr at the end of a cosine or linear schedule")
    steps: PositiveInt = Field(default=100, description="optimizer steps")
    batch_size: PositiveInt = Field(default=8, description="sequences a step")
    seq_len: PositiveInt = Field(default=64, description="tokens a sequence")
    accumulation: PositiveInt = Field(
        default=1, description="parts of a batch that go through the model one after another"
    )
    eval_tokens: Natural = Field(default=0, description="held-out tokens for val_loss (0: none)")
    eval_every: Natural = Field(default=0, description="steps between evaluations (0: at the end only)")
    data: str = Field(default="stdlib", description="stdlib, synthetic, text:PATH, tokens:GLOB or hf:NAME")
    dtype: Literal["float32", "bfloat16", "float64"] = Field(
        default="float32", description="of activations; weights are float32"
    )
    backend: Literal["auto", "reference", "chunk", "triton"] = Field(
        default="auto", description="of the gated delta rule"
    )
    halving: bool = Field(
        default=False, description="give up lrs far above the best one at a quarter and at half of the steps"
    )
    probes: Literal["full", "activations", "none"] = Field(default="none", description="what recorded steps measure")

    @model_validator(mode="after")
    def _steps_and_batches_fit(self) -> Self:
        if self.warmup_steps >= self.steps and self.warmup_steps > 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} leaves nothing of steps={self.steps}; try fewer")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation={self.accumulation} does not divide batch_size={self.batch_size}")
        if self.accumulation > 1 and self.probes != "none":
            raise ValueError("probes measure one whole batch; with accumulation above 1 set probes = 'none'")
        return self


class RunSpec(ModelSpec, Training):
    """One training: everything that determines its numbers."""

    kind: Literal["coord", "lr"] = "lr"
    parametrization: str
    table: Table = Field(repr=False)
    lr: PositiveFloat
    seed: Seed
    data_hash: str = ""
    record: tuple[int, ...] = ()

    @property
    def rules_hash(self) -> str:
        """Return the hash of the exponents that this run's optimizer and mode see."""
        return rules_hash(self.table, optimizer=self.optimizer, mode=self.mode)

    @cached_property
    def run_id(self) -> str:
        """Return 16 hex digits: a hash of every field, of the rules and of NUMERICS."""
        # a later field that is off leaves the ids of runs as they were
        without = {"table"} if self.halving else {"table", "halving"}
        fields = self.model_dump(exclude=without) | {"rules_hash": self.rules_hash, "numerics": NUMERICS}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def group(self) -> tuple:
        """Return what must agree for runs to train as replicas of one model: all but parametrization, lr and seed."""
        fields = self.model_dump(exclude={"table", "parametrization", "lr", "seed"})
        return tuple(sorted(fields.items()))
