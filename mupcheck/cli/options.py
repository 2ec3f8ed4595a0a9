"""Options of the commands, each stated once; MUPCHECK_<NAME> sets them too."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer


def option(names: str, text: str, **more: Any) -> Any:
    """Return a typer option that MUPCHECK_<NAME> can set too."""
    first = names.split()[0].split("/")[0]
    variable = "MUPCHECK_" + first.removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names.split(), help=text, envvar=variable, show_envvar=False, show_default=False, **more)


# fmt: off
Config = Annotated[Path | None, option("--config", "Sweep file (TOML); options win over it.")]
Widths = Annotated[str | None, option("--widths", "Model widths, such as 256,512,1024. (default: coord 64,128,256,512, on a GPU 256,512,1024,2048; lr-sweep 32,64,128, on a GPU 256,512,1024)")]
BaseWidth = Annotated[int | None, option("--base-width", "Width where all tables are the same model. (default: smallest width)")]
Tables = Annotated[str | None, option("--parametrization -p", "Tables, by name or .toml file, such as sp,gdn-mup. (default: coord gdn-mup; lr-sweep sp-fanin,gdn-mup)")]
Opt = Annotated[str | None, option("--opt", "adamw or sgd (Nesterov momentum). (default: adamw)")]
Momentum = Annotated[float | None, option("--momentum", "SGD's Nesterov momentum. (default: 0.9)")]
Mode = Annotated[str | None, option("--mode", "What grows with width: head-dim (K and V) or heads (H). (default: head-dim)")]
Layers = Annotated[int | None, option("--layers", "Blocks. (default: coord 2; lr-sweep 1, on a GPU 4)")]
Heads = Annotated[int | None, option("--heads", "Heads at the base width. (default: coord 4; lr-sweep 2, on a GPU 4)")]
Seeds = Annotated[int | None, option("--seeds", "Number of seeds. (default: coord 8; lr-sweep 5, on a GPU 3)")]
Steps = Annotated[int | None, option("--steps", "Optimizer steps. (default: on a CPU 60 (adamw) or 120 (sgd), on a GPU 500)")]
BatchSize = Annotated[int | None, option("--batch-size", "Sequences a step. (default: coord 1; lr-sweep 8, on a GPU 16)")]
SeqLen = Annotated[int | None, option("--seq-len", "Tokens a sequence. (default: coord 16; lr-sweep 48, on a GPU 512)")]
Data = Annotated[str | None, option("--data", "stdlib, synthetic, text:PATH, tokens:GLOB or hf:NAME. (default: stdlib)")]
VocabSize = Annotated[int | None, option("--vocab-size", "Vocabulary of tokens:GLOB data, where it is needed. (default: 256, that of bytes)")]
Tied = Annotated[bool | None, option("--tied/--untied", "Readout shares the embedding's weight. (default: untied)")]
WeightDecay = Annotated[float | None, option("--weight-decay", "Weight decay at the base width. (default: 0)")]
DecayMode = Annotated[str | None, option("--decay-mode", "coupled (torch's, fades as lr does) or independent. (default: coupled)")]
Device = Annotated[str, option("--device", "auto, cpu, cuda or cuda:i. (default: auto)")]
Dtype = Annotated[str | None, option("--dtype", "float32, bfloat16 or float64. (default: float32)")]
Backend = Annotated[str | None, option("--backend", "Of the delta rule: auto, reference, chunk or triton. (default: auto)")]
Jobs = Annotated[int | None, option("--jobs", "Processes at a time. (default: one per core on a CPU, 1 on a GPU)", min=1)]
Engine = Annotated[str, option("--engine", "Where runs execute: local. (default: local)")]
Name = Annotated[str | None, option("--name", "Folder under --out. (default: the file's name, or coord or lr)")]
Out = Annotated[Path, option("--out", "Results folder. (default: results)")]
Fresh = Annotated[bool, option("--fresh/--resume", "Train finished runs again. (default: resume)")]
Force = Annotated[bool, typer.Option("--force", help="Train even where the estimate of memory says that it does not fit.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print runs, sizes and an estimate of time; train nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as one JSON document on stdout.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 instead of 3 where it cannot tell.")]
Lr = Annotated[str | None, option("--lr", "Learning rate at the base width. (default: 2^-12 (adamw) or 2^-6 (sgd))")]
CoordSteps = Annotated[int | None, option("--steps", "Optimizer steps. (default: the last step to record)")]
Record = Annotated[str | None, option("--record", "Steps to record. (default: 0,1,2,3,4,8)")]
Expect = Annotated[str | None, option("--expect", "Verdict that exits with 0: pass or fail of a coordinate check, transfers or drifts of an lr sweep. (default: the file's, or pass; an lr sweep expects none)")]
TopUp = Annotated[bool | None, option("--top-up/--no-top-up", "Add seeds (64 at most), then larger widths (2 at most), until every verdict is decided. (default: no-top-up)")]
Budget = Annotated[float | None, option("--budget", "Minutes after which --top-up adds no more. (default: 10)")]
All = Annotated[bool, typer.Option("--all", help="Print every quantity, not only those worth a look.")]
Lrs = Annotated[str | None, option("--lrs", "Learning rates at the base width: a list, or FROM:TO:FACTOR. (default: 2^-10:2^-4:2 (adamw) or 2^-7:2^-2:1.4142135623730951 (sgd))")]
Refine = Annotated[bool | None, option("--refine/--no-refine", "Add learning rates around and beyond each optimum until it is bracketed. (default: no-refine)")]
Precision = Annotated[float | None, option("--precision", "Octaves of lr on either side of a bracketed optimum. (default: 0.25)")]
Schedule = Annotated[str | None, option("--schedule", "constant, cosine or linear. (default: linear)")]
Warmup = Annotated[int | None, option("--warmup", "Steps of linear warm-up. (default: a tenth of the steps)")]
Clip = Annotated[float | None, option("--clip", "Largest global gradient norm, 0 for none. (default: 0)")]
EvalTokens = Annotated[int | None, option("--eval-tokens", "Held-out tokens for val_loss. (default: 8192, on a GPU 262144)")]
# fmt: on

# option -> key of a SweepSpec, where they differ
KEYS = {
    "tables": "parametrizations",
    "opt": "optimizer",
    "layers": "n_layers",
    "heads": "n_heads",
    "warmup": "warmup_steps",
    "lr": "lrs",
}


def optimizers_and_modes(opt: str | None, mode: str | None) -> tuple[list[str], list[str]]:
    """Return the optimizers and modes that two options name; all where they are left out."""
    from mupcheck.theory.parametrization import MODES, OPTIMIZERS

    optimizers = [one_of("--opt", opt, OPTIMIZERS)] if opt else list(OPTIMIZERS)
    return optimizers, [one_of("--mode", mode, MODES)] if mode else list(MODES)


def settings(opt: str | None, mode: str | None) -> list[tuple[str, str]]:
    """Return every (optimizer, mode) of them."""
    return list(product(*optimizers_and_modes(opt, mode)))


def list_of(key: str, text: str, convert: type) -> list[Any]:
    """Return the values of a comma-separated list.

    Raises:
        ValueError: if one is not of the type.
    """
    try:
        return [convert(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{key} = {text!r} is not a list of whole numbers, such as 256,512,1024") from None


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return the value of an option.

    Raises:
        ValueError: if it is not a known one.
    """
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown; known: {', '.join(known)}")
    return value
