"""What a sweep is: a grid of runs, and the verdict that each parametrization is expected to get."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from mupcheck.spec.lrs import MAX_RUNS, parse_lrs
from mupcheck.spec.model import ModelSpec, Natural, PositiveFloat, PositiveInt, Seed, Shape
from mupcheck.spec.run import RunSpec, Training
from mupcheck.theory.name import MAX_NAME, NAME_PATTERN
from mupcheck.theory.parametrization import Table
from mupcheck.theory.rules_file import find_table

AUTO_BACKEND = "chunk"  # a sweep of lrs on a GPU takes triton where it works (sweep/plan.py)
# what a sweep of each kind can be expected to find
VERDICTS = {"coord": ("pass", "fail"), "lr": ("transfers", "drifts")}
NOT_ASKED = ("budget", "expect", "question")  # of a spec: what does not say which runs there are


def expected_verdict(
    kind: str, parametrization: str, *, of_file: Mapping[str, str], option: str | None = None
) -> str | None:
    """Return the verdict that is a success: the option's where it is one of this kind, else the sweep file's.

    A coordinate check that neither names is expected to pass, of a learning-rate sweep any verdict is one (None).
    """
    if option in VERDICTS[kind]:
        return option
    return of_file.get(parametrization, "pass" if kind == "coord" else None)


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


def _shown(values: Sequence[Any]) -> str:
    """Return the values of a list as they are written, the first of many."""
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


Listed = BeforeValidator(_as_tuple)


class SweepSpec(Shape, Training):
    """A grid of runs: widths x parametrizations x lrs x seeds."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=MAX_NAME)]
    question: str = Field(default="", description="what the sweep answers")
    kind: Literal["coord", "lr"]
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1, description="model widths"), Listed]
    base_width: PositiveInt | None = Field(
        default=None, description="width where all factors are 1 (default: smallest)"
    )
    parametrizations: Annotated[
        tuple[str, ...], Field(min_length=1, description="tables: names or .toml files"), Listed
    ]
    lrs: Annotated[
        tuple[PositiveFloat, ...], Field(min_length=1, description="learning rates"), BeforeValidator(_as_lrs)
    ]
    seeds: Annotated[
        tuple[Seed, ...], Field(min_length=1, description="seeds, or how many"), BeforeValidator(_as_seeds)
    ]
    seeds_of: dict[str, Annotated[tuple[Seed, ...], Field(min_length=1), BeforeValidator(_as_seeds)]] = Field(
        default_factory=dict, description="seeds, or how many, of parametrizations that take more than `seeds`"
    )
    vocab_size: PositiveInt | None = Field(default=None, description="of tokens:GLOB data (bytes have 256)")
    expect: dict[str, Literal["pass", "fail", "transfers", "drifts"]] = Field(
        default_factory=dict, description="verdict each parametrization is expected to get"
    )
    record: Annotated[tuple[Natural, ...], Listed] = Field(default=(), description="steps to record")
    refine: bool = Field(default=False, description="add lrs until each optimum is bracketed to `precision`")
    precision: PositiveFloat = Field(default=0.25, description="octaves of lr on either side of a bracketed optimum")

    top_up: bool = Field(default=False, description="add seeds, then widths, until every verdict is decided")
    budget: PositiveFloat = Field(default=10.0, description="minutes after which no more is added")

    @model_validator(mode="after")
    def _grid_works(self) -> Self:
        for field in ("widths", "parametrizations", "lrs", "seeds", "record"):
            if len(set(values := getattr(self, field))) < len(values):
                raise ValueError(f"{field} = {_shown(values)} names a value twice")
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
        if self.kind == "coord" and self.halving:
            raise ValueError("halving belongs to a sweep of lrs (kind = 'lr'); a coordinate check has one lr")
        if self.kind == "coord" and len(self.lrs) > 1:
            raise ValueError(f"lrs = {_shown(self.lrs)}: a coordinate check takes one lr, not {len(self.lrs)}")
        if self.kind == "coord" and max(self.record) > self.steps:
            raise ValueError(f"record names step {max(self.record)}, beyond steps={self.steps}; try more steps")
        if self.kind == "coord" and self.seeds_of:
            raise ValueError("seeds_of belongs to a sweep of lrs (kind = 'lr'); a coordinate check has top_up")
        fewer = len(self.parametrizations) - len(self.seeds_of)
        n_seeds = fewer * len(self.seeds) + sum(map(len, self.seeds_of.values()))  # over the tables
        if (n_runs := len(self.widths) * len(self.lrs) * n_seeds) > MAX_RUNS:
            raise ValueError(f"the grid has {n_runs:,} runs, more than {MAX_RUNS:,}; split it into several sweeps")
        tables = self.tables
        if len({table.name for table in tables}) < len(tables):
            raise ValueError("two parametrizations have the same name; results of two tables are never mixed")
        for field in ("expect", "seeds_of"):
            if strangers := set(getattr(self, field)) - {table.name for table in tables}:
                raise ValueError(f"{field} names {min(strangers)!r}, which is not one of the parametrizations")
        for name, seeds in self.seeds_of.items():
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"seeds_of {name!r} = {_shown(seeds)} names a value twice")
            if missing := set(self.seeds) - set(seeds):
                raise ValueError(f"seeds_of {name!r} leaves out seed {min(missing)} of `seeds`; give those and more")
        for verdict in self.expect.values():
            if verdict not in VERDICTS[self.kind]:
                known = " or ".join(VERDICTS[self.kind])
                raise ValueError(f"expect = {verdict!r} is no verdict of a sweep of kind {self.kind!r}; try {known}")
        for width in self.widths:
            try:
                self._model(width, vocab_size=self.vocab_size or 256)
            except ValidationError as error:
                said = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"widths: {said}" if said.startswith("width ") else said) from None
        return self

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Return the tables that `parametrizations` names."""
        try:
            return tuple(find_table(name) for name in self.parametrizations)
        except ValueError as error:
            raise ValueError(f"parametrizations: {error}") from None

    def _model(self, width: int, vocab_size: int) -> ModelSpec:
        shape = {field: getattr(self, field) for field in Shape.model_fields}
        return ModelSpec(width=width, base_width=self.base_width or min(self.widths), vocab_size=vocab_size, **shape)

    def runs(
        self,
        *,
        vocab_size: int,
        data_hash: str,
        added: Mapping[tuple[str, int], Sequence[float]] | None = None,
        backend: str = AUTO_BACKEND,
    ) -> list[RunSpec]:
        """Return every run of the grid, in the order widths, parametrizations, lrs, seeds.

        Args:
            vocab_size: of the opened data.
            data_hash: of the opened data; part of each run's id.
            added: lrs beyond the grid's, by name of the table and width.
            backend: what "auto" stands for where the runs train.
        """
        training: dict[str, Any] = {field: getattr(self, field) for field in Training.model_fields}
        if self.backend == "auto":
            # a run names what computes it, so that another choice one day does not pass for the same run
            training["backend"] = backend
        runs = []
        for width in self.widths:
            model: dict[str, Any] = self._model(width, vocab_size).model_dump()
            cells = (
                (table, lr, seed)
                for table in self.tables
                for lr in (*self.lrs, *(added or {}).get((table.name, width), ()))
                for seed in self.seeds_of.get(table.name, self.seeds)
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
