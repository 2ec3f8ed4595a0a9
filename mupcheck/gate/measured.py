"""How two groups were measured, as far as that differs: it explains what moved, or makes a comparison mean nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mupcheck.coordinates import grid
from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.baseline import text_of
from mupcheck.gate.moves import COST, DRIFT, OPTIMUM
from mupcheck.learning_rates import optimum
from mupcheck.learning_rates.drift import Transfer
from mupcheck.results.comparable import GROUP, group_of, lr_text, same_by_mode, title_of
from mupcheck.results.printing import named
from mupcheck.results.reading import Results
from mupcheck.results.tables import SETTINGS

OF_CODE = ("commit", "mupcheck", "torch", "triton", "python", "device", "backend")  # which change no draw
OF_LRS = ("rules_hash", *optimum.SAME)
UNIT = "loss_name"
NONE = "none"
Values = tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """One setting that differs, as text."""

    name: str
    a: str
    b: str

    @property
    def text(self) -> str:
        """Return "seeds 0 to 3 -> 4 to 7"."""
        return f"{self.name.replace('_', ' ')} {self.a} -> {self.b}"


@dataclass(frozen=True)
class Measured:
    """What differs between two groups.

    Attributes:
        settings: what the numbers depend on.
        code: by what they were measured: commit, versions, device, backend.
        shared: whether both drew the same: same setting, seeds and data, whatever the code. Not where the data is not
            known, nor of two models of a user's own that are called otherwise.
        without: which of best lr, drift and cost cannot be compared.
        why: of `without`, a line each.
    """

    settings: tuple[Setting, ...]
    code: tuple[Setting, ...]
    shared: bool
    without: tuple[str, ...]
    why: tuple[str, ...]


def say_measured(settings: Sequence[Setting], code: Sequence[Setting]) -> list[str]:
    """Return a line on other settings and one on other code, none where there is no such."""
    lines = {"measured in another way": settings, "by other code or machines": code}
    return [f"{name}: {'; '.join(each.text for each in found)}" for name, found in lines.items() if found]


def compare_measured(a: Judgement | Transfer, b: Judgement | Transfer, of_a: Results, of_b: Results) -> Measured:
    """Return in what two groups of one kind, optimizer and mode were measured differently.

    Args:
        a, b: their answers.
        of_a, of_b: the results that these were judged of.
    """
    pairs = [(a, _runs_of(a, of_a)), (b, _runs_of(b, of_b))]
    fields = (*(grid.SAME if isinstance(a, Judgement) else OF_LRS), *same_by_mode(a.mode))
    if all("accumulation" in runs and runs["accumulation"].notna().any() for _, runs in pairs):
        fields += SETTINGS  # which files of earlier versions do not say
    settings = _differing(*(_ranges(answer) | _values(runs, fields) for answer, runs in pairs))
    settings = tuple(each for each in settings if each.name not in OF_CODE)
    code = _differing(*(_values(runs, OF_CODE) for _, runs in pairs))
    without = _without(settings)
    return Measured(
        settings=settings,
        code=tuple(each for each in code if NONE not in (each.a, each.b)),
        shared=not settings and title_of(a) == title_of(b) and all(_is_data_known(runs) for _, runs in pairs),
        without=tuple(dict.fromkeys(name for names in without.values() for name in names)),
        why=tuple(without),
    )


def _runs_of(answer: Judgement | Transfer, results: Results) -> pd.DataFrame:
    kind = "coord" if isinstance(answer, Judgement) else "lr"
    runs = results.runs[results.runs["kind"] == kind]
    return runs[(runs[GROUP] == list(group_of(answer))).all(axis=1)]


def _is_data_known(runs: pd.DataFrame) -> bool:
    return bool(runs["data_hash"].notna().all() and (runs["data_hash"] != "").all())


def _ranges(answer: Judgement | Transfer) -> dict[str, Values]:
    """Return over what the runs of a group range, and of what its numbers are."""
    of = answer.measured
    ranges = {name: tuple(map(str, of[name])) for name in ("seeds", "widths", "record") if name in of}
    if isinstance(answer, Transfer):
        ranges["lrs"] = tuple(map(lr_text, of["lrs"]))
        ranges["added_lrs"] = (str(of["added_lrs"]),)
        ranges[UNIT] = (answer.loss_name,)
    return ranges


def _values(runs: pd.DataFrame, fields: Sequence[str]) -> dict[str, Values]:
    """Return the values of columns as text; () for what is not there or not said."""
    found = {name: sorted({text_of(value) for value in runs[name].dropna()} if name in runs else ()) for name in fields}
    if "data" in found:
        # where a file or folder lies is the machine's business; data_hash says what is in it
        found["data"] = [value.partition(":")[0] for value in found["data"]]
    return {name: tuple(values) for name, values in found.items()}


def _differing(a: dict[str, Values], b: dict[str, Values]) -> tuple[Setting, ...]:
    names = dict.fromkeys((*a, *b))
    return tuple(Setting(n, _text(x), _text(y)) for n in names if (x := a.get(n, ())) != (y := b.get(n, ())))


def _text(values: Values) -> str:
    """Write values in short: "0 to 7" of whole numbers in a row, the ends alone of many."""
    whole = [int(value) for value in values if value.isdecimal()]
    if len(whole) > 2 and whole == list(range(whole[0], whole[0] + len(values))):
        return f"{whole[0]} to {whole[-1]}"
    return named(values) or NONE


def _without(settings: Sequence[Setting]) -> dict[str, tuple[str, ...]]:
    """Return what cannot be compared, by the line that says why."""
    lines: dict[str, tuple[str, ...]] = {}
    for each in settings:
        what = f"{each.a} in A and {each.b} in B"
        if each.name == UNIT:
            lines[f"best lrs, drift and cost are not compared: they are of {what}"] = (OPTIMUM, DRIFT, COST)
        elif each.name == "base_width":
            lines[f"best lrs are not compared: an lr is the one at the base width, {what}"] = (OPTIMUM,)
        elif each.name == "vocab_size":
            lines[f"costs are not compared: a loss per token has another unit, vocab_size {what}"] = (COST,)
    return lines
