"""Frozen, validated specs: what a model is, what a run is, and what a sweep is; TOML or options in, RunSpecs out."""

import hashlib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mupcheck.theory.parametrization import Table, find_table, rules_hash

# Raised when the same spec would give other numbers than before, so that old results are not taken for new ones.
NUMERICS = 1
MAX_RUNS = 100_000
AUTO_BACKEND = "chunk"
# what a sweep of each kind can be expected to find
VERDICTS = {"coord": ("pass", "fail"), "lr": ("transfers", "drifts")}


def expected_verdict(
    kind: str, parametrization: str, *, of_file: Mapping[str, str], option: str | None = None
) -> str | None:
    """Return the verdict that is a success: the option's where it is one of this kind, else the sweep file's.

    A coordinate check that neither names is expected to pass, of a learning-rate sweep any verdict is one (None).
    """
    if option in VERDICTS[kind]:
        return option
    return of_file.get(parametrization, "pass" if kind == "coord" else None)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


PositiveInt = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a column of int64
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


class _Shape(_Frozen):
    """What of a model does not change with width; head sizes and stds are those at the base width."""

    mode: Literal["head-dim", "heads"] = Field("head-dim", description="what grows with width: K and V, or H")
    n_layers: PositiveInt = Field(1, description="blocks")
    n_heads: PositiveInt = Field(2, description="heads at the base width")
    head_k_dim: PositiveInt | None = Field(None, description="K at the base width (default: 0.75 width / heads)")
    head_v_dim: PositiveInt | None = Field(None, description="V at the base width (default: 2 K)")
    mlp_ratio: PositiveInt = Field(4, description="MLP hidden size / width")
    conv_size: PositiveInt = Field(4, description="taps of the short convolutions")
    tied: bool = Field(False, description="readout shares the embedding's weight")
    embedding_std: PositiveFloat | None = Field(None, description="embedding std (default: 1 untied, 0.5 tied)")
    projection_std: PositiveFloat | None = Field(
        None, description="std of projections and gates at the base width (default: projection_factor / sqrt(fan_in))"
    )
    projection_factor: PositiveFloat = Field(1.0, description="factor on the default std of projections and gates")
    conv_std: PositiveFloat = Field(0.5, description="std of the short convolutions' taps")
    readout_std: NonNegativeFloat = Field(0.0, description="std of an untied readout at the base width")
    logit_scale: PositiveFloat = Field(1.0, description="constant factor on the logits")
    norm_eps: NonNegativeFloat = Field(1e-6, description="eps of every RMSNorm")


class ModelSpec(_Shape):
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


class _Training(_Frozen):
    """How a run is trained; the same for all runs of a sweep."""

    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd is Nesterov momentum")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD's Nesterov momentum")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="AdamW's decay of the mean")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="AdamW's decay of the mean square")
    eps: PositiveFloat = Field(1e-8, description="AdamW's eps at the base width")
    weight_decay: NonNegativeFloat = Field(0.0, description="weight decay at the base width")
    decay_mode: Literal["coupled", "independent"] = Field(
        "coupled", description="coupled: torch's, fades as lr does; independent: lr * decay the same at every width"
    )
    clip: NonNegativeFloat = Field(0.0, description="largest global gradient norm (0: no clipping)")
    schedule: Literal["constant", "cosine", "linear"] = Field("constant", description="lr after warm-up")
    warmup_steps: Natural = Field(0, description="steps of linear warm-up")
    min_lr: NonNegativeFloat = Field(0.0, description="lr at the end of a cosine or linear schedule")
    steps: PositiveInt = Field(100, description="optimizer steps")
    batch_size: PositiveInt = Field(8, description="sequences a step")
    seq_len: PositiveInt = Field(64, description="tokens a sequence")
    accumulation: PositiveInt = Field(1, description="parts of a batch that go through the model one after another")
    eval_tokens: Natural = Field(0, description="held-out tokens for val_loss (0: none)")
    eval_every: Natural = Field(0, description="steps between evaluations (0: at the end only)")
    data: str = Field("stdlib", description="stdlib, synthetic, text:PATH, tokens:GLOB or hf:NAME")
    dtype: Literal["float32", "bfloat16", "float64"] = Field(
        "float32", description="of activations; weights are float32"
    )
    backend: Literal["auto", "reference", "chunk", "triton"] = Field("auto", description="of the gated delta rule")
    probes: Literal["full", "activations", "none"] = Field("none", description="what recorded steps measure")

    @model_validator(mode="after")
    def _steps_and_batches_fit(self) -> Self:
        if self.warmup_steps >= self.steps and self.warmup_steps > 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} leaves nothing of steps={self.steps}; try fewer")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation={self.accumulation} does not divide batch_size={self.batch_size}")
        if self.accumulation > 1 and self.probes != "none":
            raise ValueError("probes measure one whole batch; with accumulation above 1 set probes = 'none'")
        return self


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_seeds(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return _as_tuple(value)
    if not 1 <= value <= MAX_RUNS:
        raise ValueError(f"seeds = {value} is not a number of seeds; give 1 to {MAX_RUNS:,}, or a list")
    return tuple(range(value))


def _as_lrs(value: Any) -> Any:
    if isinstance(value, str):
        return parse_lrs(value)
    return _as_tuple([value] if isinstance(value, int | float) else value)


Listed = BeforeValidator(_as_tuple)


class RunSpec(ModelSpec, _Training):
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
        fields = self.model_dump(exclude={"table"}) | {"rules_hash": self.rules_hash, "numerics": NUMERICS}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def group(self) -> tuple:
        """Return what must agree for runs to train as replicas of one model: all but parametrization, lr and seed."""
        fields = self.model_dump(exclude={"table", "parametrization", "lr", "seed"})
        return tuple(sorted(fields.items()))


class SweepSpec(_Shape, _Training):
    """A grid of runs: widths x parametrizations x lrs x seeds."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    question: str = Field("", description="what the sweep answers")
    kind: Literal["coord", "lr"]
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1, description="model widths"), Listed]
    base_width: PositiveInt | None = Field(None, description="width where all factors are 1 (default: smallest)")
    parametrizations: Annotated[
        tuple[str, ...], Field(min_length=1, description="tables: names or .toml files"), Listed
    ]
    lrs: Annotated[
        tuple[PositiveFloat, ...], Field(min_length=1, description="learning rates"), BeforeValidator(_as_lrs)
    ]
    seeds: Annotated[
        tuple[Seed, ...], Field(min_length=1, description="seeds, or how many"), BeforeValidator(_as_seeds)
    ]
    vocab_size: PositiveInt | None = Field(None, description="of tokens:GLOB data (bytes have 256)")
    expect: dict[str, Literal["pass", "fail", "transfers", "drifts"]] = Field(
        default_factory=dict, description="verdict each parametrization is expected to get"
    )
    record: Annotated[tuple[Natural, ...], Listed] = Field((), description="steps to record")
    refine: bool = Field(False, description="add lrs until each optimum is bracketed to `precision`")
    precision: PositiveFloat = Field(0.25, description="octaves of lr on either side of a bracketed optimum")

    top_up: bool = Field(False, description="add seeds, then widths, until every verdict is decided")
    budget: PositiveFloat = Field(10.0, description="minutes after which no more is added")

    @model_validator(mode="after")
    def _grid_works(self) -> Self:
        for field in ("widths", "parametrizations", "lrs", "seeds", "record"):
            if len(set(values := getattr(self, field))) < len(values):
                raise ValueError(f"{field} = {', '.join(map(str, values))} names a value twice")
        if self.kind == "coord" and not self.record:
            raise ValueError("record is empty; a coordinate check needs steps to record, such as 0, 1, 3")
        if self.kind == "coord" and self.probes == "none":
            raise ValueError("a coordinate check with probes = 'none' measures nothing; try 'full' or 'activations'")
        if self.kind == "lr" and (self.record or self.probes != "none"):
            raise ValueError("record and probes belong to a coordinate check (kind = 'coord'); a sweep of lrs has none")
        if self.kind == "coord" and self.refine:
            raise ValueError("refine belongs to a sweep of lrs (kind = 'lr'); a coordinate check has one lr")
        if self.kind == "lr" and self.top_up:
            raise ValueError("top_up belongs to a coordinate check (kind = 'coord'); a sweep of lrs has refine")
        if self.kind == "coord" and len(self.lrs) > 1:
            raise ValueError(f"a coordinate check takes one lr, not {len(self.lrs)}")
        if self.kind == "coord" and max(self.record) > self.steps:
            raise ValueError(f"record names step {max(self.record)}, beyond steps={self.steps}; try more steps")
        if (n_runs := len(self.widths) * len(self.parametrizations) * len(self.lrs) * len(self.seeds)) > MAX_RUNS:
            raise ValueError(f"the grid has {n_runs:,} runs, more than {MAX_RUNS:,}; split it into several sweeps")
        tables = self.tables
        if len({table.name for table in tables}) < len(tables):
            raise ValueError("two parametrizations have the same name; results of two tables are never mixed")
        if strangers := set(self.expect) - {table.name for table in tables}:
            raise ValueError(f"expect names {min(strangers)!r}, which is not one of the parametrizations")
        for verdict in self.expect.values():
            if verdict not in VERDICTS[self.kind]:
                known = " or ".join(VERDICTS[self.kind])
                raise ValueError(f"expect = {verdict!r} is no verdict of a sweep of kind {self.kind!r}; try {known}")
        for width in self.widths:
            self._model(width, vocab_size=self.vocab_size or 256)
        return self

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Return the tables that `parametrizations` names."""
        return tuple(find_table(name) for name in self.parametrizations)

    def _model(self, width: int, vocab_size: int) -> ModelSpec:
        shape = {field: getattr(self, field) for field in _Shape.model_fields}
        return ModelSpec(width=width, base_width=self.base_width or min(self.widths), vocab_size=vocab_size, **shape)

    def runs(
        self, *, vocab_size: int, data_hash: str, added: Mapping[tuple[str, int], Sequence[float]] | None = None
    ) -> list[RunSpec]:
        """Return every run of the grid, in the order widths, parametrizations, lrs, seeds.

        Args:
            vocab_size: of the opened data.
            data_hash: of the opened data; part of each run's id.
            added: lrs beyond the grid's, by name of the table and width.
        """
        training: dict[str, Any] = {field: getattr(self, field) for field in _Training.model_fields}
        if self.backend == "auto":
            # a run names what computes it, so that another choice one day does not pass for the same run
            training["backend"] = AUTO_BACKEND
        runs = []
        for width in self.widths:
            model: dict[str, Any] = self._model(width, vocab_size).model_dump()
            cells = (
                (table, lr, seed)
                for table in self.tables
                for lr in (*self.lrs, *(added or {}).get((table.name, width), ()))
                for seed in self.seeds
            )
            for table, lr, seed in cells:
                varied: dict[str, Any] = {
                    "kind": self.kind,
                    "parametrization": table.name,
                    "table": table,
                    "lr": lr,
                    "seed": seed,
                }
                rest: dict[str, Any] = {"data_hash": data_hash, "record": self.record if self.kind == "coord" else ()}
                runs.append(RunSpec(**model, **training, **varied, **rest))
        return runs


def parse_lrs(text: str) -> tuple[float, ...]:
    """Read a list of learning rates "1e-3,2e-3", or "FROM:TO:FACTOR" with both ends included; 2^-7 is a number too.

    Raises:
        ValueError: if a number is not one, is not above 0, or the factor is not above 1.
    """
    if ":" not in text:
        return tuple(_parse_number(part) for part in text.split(",") if part.strip())
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"lrs = {text!r} is not FROM:TO:FACTOR, such as 1e-4:1e-1:2")
    first, last, factor = (_parse_number(part) for part in parts)
    if not (first > 0 and last >= first and factor > 1):
        raise ValueError(f"lrs = {text!r}: needs 0 < FROM <= TO and FACTOR > 1, such as 1e-4:1e-1:2")
    count = math.floor((math.log(last) - math.log(first)) / math.log(factor) + 1e-9) + 1
    if count > MAX_RUNS:
        raise ValueError(f"lrs = {text!r} gives {count:,} learning rates; try a larger factor")
    try:
        lrs = [first * factor**i for i in range(count)]
    except OverflowError:
        raise ValueError(f"lrs = {text!r} spans more than a float holds; try a smaller range") from None
    if math.isclose(lrs[-1], last, rel_tol=1e-9):
        lrs[-1] = last  # a rounding error would make it another lr, and another run
    return tuple(lrs)


def _parse_number(text: str) -> float:
    try:
        base, caret, exponent = text.strip().partition("^")
        value = float(base) ** float(exponent) if caret else float(base)
    except (ValueError, OverflowError, ZeroDivisionError):
        value = math.nan
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError(f"lr {text.strip()!r} is not a number above 0; write 0.001, 1e-3 or 2^-10")
    return value


def load_sweep(path: str | Path, overrides: Mapping[str, Any] | None = None, *, device: str = "cpu") -> SweepSpec:
    """Read a sweep file (TOML) and lay `overrides` over it; what neither gives takes the kind's and device's default.

    Raises:
        ValueError: if the file cannot be read, has an unknown key or a value that cannot work.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the sweep file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    # a rules file is named relative to the sweep file that names it
    names = document.get("parametrizations")
    if isinstance(names, list):
        document["parametrizations"] = [_beside(name, Path(path)) for name in names]
    document.setdefault("name", Path(path).stem)
    return make_sweep(document | dict(overrides or {}), device=device, where=str(path))


def _beside(name: Any, sweep_file: Path) -> Any:
    if isinstance(name, str) and name.endswith(".toml"):
        return str(sweep_file.parent / name)
    return name


def make_sweep(given: Mapping[str, Any], *, device: str = "cpu", where: str = "") -> SweepSpec:
    """Build a SweepSpec from plain values, filling in the defaults of its kind for `device` ("cpu" or "cuda").

    Raises:
        ValueError: one line that names the key, what was given and what is allowed.
    """
    kind = given.get("kind")
    if kind not in ("coord", "lr"):
        raise ValueError(f"{where or 'sweep'}: kind = {kind!r}; a sweep is of kind 'coord' or 'lr'")
    defaults = sweep_defaults(given, device=device)
    try:
        return SweepSpec(**(defaults | dict(given)))
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ValueError(prefix + explain(error, SweepSpec.model_fields)) from None


def sweep_defaults(given: Mapping[str, Any], *, device: str) -> dict[str, Any]:
    """Return the defaults that depend on what is measured and where; what is given wins over them."""
    optimizer, tied = str(given.get("optimizer", "adamw")), given.get("tied") is True
    if given.get("kind") == "coord":
        steps = given.get("steps")
        record = [step for step in (0, 1, 2, 3, 4, 8) if not isinstance(steps, int) or step <= steps]
        asked = given.get("record", record)
        last = (
            max((step for step in asked if isinstance(step, int)), default=1) if isinstance(asked, list | tuple) else 1
        )
        # theory.md section 4: few tokens, one batch, no warm-up, clipping or decay, a readout that is not zero
        return {
            "name": "coord",
            "widths": (64, 128, 256, 512) if device == "cpu" else (256, 512, 1024, 2048),
            "parametrizations": ("gdn-mup",),
            "lrs": (2.0**-12 if optimizer == "adamw" else 2.0**-6,),
            "seeds": 8,
            "n_layers": 2,
            "n_heads": 4,
            "batch_size": 1,
            "seq_len": 16,
            "readout_std": 0.125,
            "logit_scale": 0.25 if tied else 1.0,
            "record": record,
            "steps": max(last, 1),
            "probes": "full",
        }
    # the lr decays to 0: at a constant lr the noise of the last steps moves the optimum (measured: by half an octave)
    grid = {"sgd": "2^-7:2^-2:1.4142135623730951"}.get(optimizer, "2^-10:2^-4:2")
    common = {"name": "lr", "parametrizations": ("sp-fanin", "gdn-mup"), "lrs": grid, "logit_scale": 4.0}
    common |= {"schedule": "linear"}
    if device == "cpu":
        steps = 60 if optimizer == "adamw" else 120
        sizes = {
            "widths": (32, 64, 128),
            "seeds": 5,
            "n_layers": 1,
            "batch_size": 8,
            "seq_len": 48,
            "eval_tokens": 8192,
        }
    else:
        steps = 500
        sizes = {"widths": (256, 512, 1024), "seeds": 3, "n_layers": 4, "n_heads": 4, "batch_size": 16, "seq_len": 512}
        sizes["eval_tokens"] = 2**18
    steps = given.get("steps", steps)
    warmup = max(steps, 0) // 10 if isinstance(steps, int) else 0
    return common | sizes | {"steps": steps, "warmup_steps": warmup}


# pydantic's words that say little to who writes TOML or options
EXPLAINED = {
    "tuple_type": "input should be a list",
    "dict_type": "input should be a table",
    "string_pattern_mismatch": "input should be letters, digits, '.', '_' and '-'",
}


def explain(error: ValidationError, known: Iterable[str]) -> str:
    """Return the first fault of a pydantic error as one line: what was given, what is allowed."""
    fault = error.errors()[0]
    location: Sequence[Any] = fault["loc"]
    key = str(location[0]) if location else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known: {', '.join(sorted(known))}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message
    if fault["type"] == "too_short":
        return f"{key} is empty; give at least one"
    message = EXPLAINED.get(fault["type"], message)
    given = fault["input"]
    if len(location) > 1:
        return f"{key}: {given!r} is not allowed: {message[0].lower()}{message[1:]}"
    return f"{key} = {given!r} is not allowed: {message[0].lower()}{message[1:]}"
