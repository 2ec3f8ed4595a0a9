"""Options of the commands, each stated once, by panel of the help; MUPCHECK_<NAME> sets them too.

`takes` gives a command its options.
"""

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from mupcheck.cli.typed import called, variables
from mupcheck.results.stores.address import place_of
from mupcheck.spec.defaults import sweep_defaults

MODEL, DATA, OPTIMIZER, RUN, RAY, SLURM, OUTPUT = PANELS = (
    "Model",
    "Data",
    "Optimizer",
    "Run",
    "Ray",
    "Slurm",
    "Output",
)
BOTH = ("coord", "lr")
ALL = ("coord", "lr", "run")


def option(names: str, text: str, **more: Any) -> Any:
    """Return a typer option that MUPCHECK_<NAME> can set too."""
    more.setdefault("envvar", variables(*(name.split("/")[0] for name in names.split())))
    return typer.Option(*names.split(), help=text, show_envvar=False, show_default=False, **more)


@dataclass(frozen=True)
class Row:
    """One option of coord, lr-sweep or run: its key in a SweepSpec or its own, and what the help says of it."""

    key: str
    names: str
    type: Any
    text: str
    default: str = ""  # as the help says it; left out: that of spec/defaults
    of: tuple[str, ...] = BOTH
    value: Any = None  # where the option is not given
    metavar: str | None = None
    more: tuple[tuple[str, Any], ...] = ()


NO_VARIABLE = (("envvar", None),)
COORD, LR = ("coord",), ("lr",)
# fmt: off
TABLE: dict[str, tuple[Row, ...]] = {
    MODEL: (
        Row("widths", "--widths", str, "Model widths, such as 256,512,1024.", metavar="LIST"),
        Row("base_width", "--base-width", int, "Width where all tables are the same model.", "smallest width"),
        Row("parametrizations", "--parametrization --parametrizations -p", str, "Tables, by name or .toml file, such as sp,gdn-mup.", metavar="LIST"),
        Row("mode", "--mode", str, "What grows with width: head-dim (K and V) or heads (H).", "head-dim", metavar="NAME"),
        Row("n_layers", "--layers --n-layers", int, "Blocks."),
        Row("n_heads", "--heads --n-heads", int, "Heads at the base width."),
        Row("head_k_dim", "--head-k-dim", int, "K, the key dimension of a head, at the base width.", "3/4 of the base width / heads"),
        Row("head_v_dim", "--head-v-dim", int, "V, the value dimension of a head, at the base width.", "2 K"),
        Row("tied", "--tied/--untied", bool, "Readout shares the embedding's weight.", "untied"),
    ),
    DATA: (
        Row("data", "--data", str, "stdlib, synthetic, text:PATH, tokens:GLOB or hf:NAME.", "stdlib", metavar="SOURCE"),
        Row("vocab_size", "--vocab-size", int, "Vocabulary of tokens:GLOB data, where it is needed.", "256, that of bytes"),
        Row("batch_size", "--batch-size", int, "Sequences a step."),
        Row("seq_len", "--seq-len", int, "Tokens a sequence."),
        Row("eval_tokens", "--eval-tokens", int, "Held-out tokens for val_loss.", of=LR),
    ),
    OPTIMIZER: (
        Row("optimizer", "--opt --optimizer", str, "adamw or sgd (Nesterov momentum).", "adamw", metavar="NAME"),
        Row("lrs", "--lr --lrs", str, "Learning rate at the base width.", of=COORD, metavar="LR", more=(("envvar", ["MUPCHECK_LR"]),)),
        Row("lrs", "--lrs --lr", str, "Learning rates at the base width: a list, or FROM:TO:FACTOR.", of=LR, metavar="LIST", more=(("envvar", ["MUPCHECK_LRS"]),)),
        Row("momentum", "--momentum", float, "SGD's Nesterov momentum.", "0.9"),
        Row("eps", "--eps", float, "AdamW's eps at the base width.", "1e-08"),
        Row("weight_decay", "--weight-decay", float, "Weight decay at the base width.", "0"),
        Row("decay_mode", "--decay-mode", str, "coupled (torch's, fades as lr does) or independent.", "coupled", metavar="NAME"),
        Row("schedule", "--schedule", str, "lr after warm-up: constant, cosine or linear.", metavar="NAME"),
        Row("warmup_steps", "--warmup --warmup-steps", int, "Steps of linear warm-up.", "0", of=COORD),
        Row("warmup_steps", "--warmup --warmup-steps", int, "Steps of linear warm-up.", "a tenth of the steps", of=LR),
        Row("clip", "--clip", float, "Largest global gradient norm, 0 for none.", "0"),
    ),
    RUN: (
        Row("model", "--model", Path, "Python file of a model to sweep, with build(width) and optimizer(model, lr), see mupcheck explain audit.", "the built-in one", of=LR, metavar="FILE"),
        Row("config", "--config", Path, "Sweep file (TOML); options win over it.", "none", metavar="FILE"),
        Row("seeds", "--seeds", int, "Number of seeds."),
        Row("steps", "--steps", int, "Optimizer steps.", "the last step to record", of=COORD),
        Row("steps", "--steps", int, "Optimizer steps.", of=LR),
        Row("record", "--record", str, "Steps to record.", of=COORD, metavar="LIST"),
        Row("accumulation", "--accumulation", int, "Parts of a batch that go through the model one after another.", "1", of=LR),
        Row("top_up", "--top-up/--no-top-up", bool, "Add seeds (64 at most), then larger widths (2 at most), until every verdict is decided; with --seeds only if asked for.", "top-up", of=COORD),
        Row("budget", "--budget", str, "Time after which no more runs start, such as 30m, or minutes; the same command goes on. Left out, --top-up alone has one.", "10", of=COORD, metavar="TIME"),
        Row("budget", "--budget", str, "Time after which no more runs start, such as 30m; the same command goes on.", "no limit", of=("lr", "run"), metavar="TIME"),
        Row("refine", "--refine/--no-refine", bool, "Add learning rates around and beyond each optimum until it is bracketed.", "no-refine", of=LR),
        Row("precision", "--precision", float, "Octaves of lr on either side of a bracketed optimum.", "0.25", of=LR, metavar="OCTAVES"),
        Row("halving", "--halving/--no-halving", bool, "Give up lrs far above the best one at a quarter and at half of the steps.", "no-halving", of=LR),
        Row("device", "--device", str, "auto, cpu, cuda (every GPU there is) or cuda:i (that one).", "auto", of=ALL, value="auto", metavar="NAME"),
        Row("dtype", "--dtype", str, "float32, bfloat16 or float64.", metavar="NAME"),
        Row("backend", "--backend", str, "Of the delta rule: auto, reference, chunk or triton.", "auto", metavar="NAME"),
        Row("jobs", "--jobs", int, "Processes at a time.", "one per core on a CPU, one per GPU", of=ALL, more=(("min", 1),)),
        Row("gpus_per_run", "--gpus-per-run", int, "GPUs that train each run together, for widths too large for one; see mupcheck explain gpus-per-run.", "1", of=ALL, more=(("min", 1),)),
        Row("exact", "--exact", bool, "Train each run alone: on a GPU, replicas may round otherwise in another group.", "no", of=ALL, value=False),
        Row("engine", "--engine", str, "Where runs execute: local (this machine), ray or slurm (a cluster, see mupcheck explain ray, slurm).", "local", of=ALL, value="local", metavar="NAME"),
        Row("run_timeout", "--run-timeout", str, "Time that runs which train together may take, such as 10m; then they are ended and fail.", "no limit", of=ALL, metavar="TIME"),
        Row("max_runs", "--max-runs", int, "Most runs to train now; the same command goes on.", "all", of=ALL, more=(("min", 1),)),
        Row("retry_failed", "--retry-failed/--keep-failed", bool, "Train runs again that failed before.", "retry-failed", of=ALL, value=True),
        Row("fresh", "--fresh/--resume", bool, "Train finished runs again.", "resume", of=ALL, value=False),
        Row("force", "--force", bool, "Train even where the estimate of memory says that it does not fit.", "no", of=ALL, value=False, more=NO_VARIABLE),
        Row("dry_run", "--dry-run", bool, "Print runs, sizes and an estimate of time; train nothing.", "no", of=ALL, value=False, more=NO_VARIABLE),
    ),
    RAY: (
        Row("ray_address", "--ray-address", str, "Cluster: auto (of this machine), HOST:PORT or ray://HOST:PORT; local starts one here.", "RAY_ADDRESS, or local", of=ALL, metavar="ADDRESS"),
        Row("ray_cpus", "--ray-cpus", float, "Cores that a group of runs takes up.", "1", of=ALL),
        Row("ray_gpus", "--ray-gpus", float, "GPUs that a group takes up; 0.5 lets two share one.", "0, or 1 with --device cuda", of=ALL),
    ),
    SLURM: (
        Row("slurm_partition", "--slurm-partition", str, "Partition of the tasks.", "the cluster's", of=ALL, metavar="NAME"),
        Row("slurm_time", "--slurm-time", str, "Limit of a task, such as 90m, 4h or 04:00:00.", "the partition's", of=ALL, metavar="TIME"),
        Row("slurm_gpus", "--slurm-gpus", int, "GPUs of a task.", "0, or 1 with --device cuda", of=ALL, more=(("min", 0),)),
        Row("slurm_cpus", "--slurm-cpus", int, "Cores of a task.", "1", of=ALL, more=(("min", 1),)),
        Row("slurm_groups", "--slurm-groups", int, "Groups of runs that a task works through.", "as many as it has GPUs or cores", of=ALL, more=(("min", 1),)),
        Row("slurm_args", "--slurm-args", str, "More options of sbatch, such as '--account=lab --mem=16G'.", "no more", of=ALL, metavar="OPTIONS"),
        Row("slurm_poll", "--slurm-poll", float, "Seconds between two looks at the queue and the folder.", "10", of=ALL, metavar="SECONDS"),
        Row("no_wait", "--no-wait", bool, "Submit, and do not wait for the answer; the same command later goes on.", "no", of=ALL, value=False),
    ),
    OUTPUT: (
        Row("name", "--name", str, "Folder under --out.", "the file's name, or coord", of=COORD, metavar="NAME"),
        Row("name", "--name", str, "Folder under --out.", "the file's name, or lr", of=LR, metavar="NAME"),
        Row("out", "--out", Path, "Results folder, or its address in a store, such as s3://bucket/results.", "results", of=ALL, value=Path("results"), metavar="FOLDER", more=(("parser", place_of),)),
        Row("expect", "--expect", str, "Verdict that exits with 0: pass or fail.", "the file's, or pass", of=COORD, metavar="VERDICT"),
        Row("expect", "--expect", str, "Verdict that exits with 0: transfers or drifts.", "the file's, or either", of=LR, metavar="VERDICT"),
        Row("expect", "--expect", str, "Verdict that exits with 0: pass or fail of a coordinate check, transfers or drifts of an lr sweep.", "the file's, or pass, or either of an lr sweep", of=("run",), metavar="VERDICT"),
        Row("cost", "--cost", float, "Percent of the loss that the best lr of the smallest width may cost the largest; given, a costly one exits with 1.", "1, and any cost exits with 0", of=("lr", "run"), metavar="PERCENT"),
        Row("target", "--target", int, "Width for which the best lr is predicted.", "no prediction", of=("lr", "run"), metavar="WIDTH"),
        Row("check_precision", "--check-precision", bool, "Train in the other dtype too, the smallest width of a sweep of lrs, and say whether that moves the best lr or a slope; if it does, exit with 1.", "no", of=ALL, value=False),
        Row("strict", "--strict", bool, "Exit with 1 instead of 3 where it cannot tell.", "no", of=ALL, value=False, more=NO_VARIABLE),
        Row("progress", "--progress", str, "How progress is shown on stderr: auto, rich (a bar), plain (lines), json (an event a line) or none.", "auto: a bar on a terminal, lines in a pipe", of=ALL, value="auto", metavar="NAME"),
        Row("json", "--json", bool, "Print the answer as one JSON document on stdout.", "no", of=ALL, value=False, more=NO_VARIABLE),
        Row("every", "--all", bool, "Print all that is known, and how it was measured, not only what answers.", "no", of=ALL, value=False, more=NO_VARIABLE),
    ),
}
Tables = Annotated[str | None, option("--parametrization --parametrizations -p", "Tables, by name or .toml file, such as sp,gdn-mup. (default: gdn-mup)", metavar="LIST")]
Opt = Annotated[str | None, option("--opt --optimizer", "adamw or sgd. (default: both)", metavar="NAME")]
Mode = Annotated[str | None, option("--mode", "head-dim or heads. (default: both)", metavar="NAME")]
Tied = Annotated[bool | None, option("--tied/--untied", "Readout shares the embedding's weight. (default: untied)")]
Jobs = Annotated[int | None, option("--jobs", "Processes at a time. (default: one per core on a CPU, one per GPU)", min=1)]
Expect = Annotated[str | None, option("--expect", "Verdict that exits with 0: pass or fail of a coordinate check, transfers or drifts of an lr sweep. (default: the file's, or pass, or either of an lr sweep)", metavar="VERDICT")]
Progress = Annotated[str, option("--progress", "How progress is shown on stderr: auto, rich (a bar), plain (lines), json (an event a line) or none. (default: auto: a bar on a terminal, lines in a pipe)", metavar="NAME")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as one JSON document on stdout.", show_default=False)]
Ladder = Annotated[str | None, option("--ladder", "How a family grows: heads, head-dim, value-heads (key heads stay), or FILE.json with a list of configs. (default: the family's own)", metavar="NAME")]
Stored = typer.Argument(help="Results folder, or one sweep's folder in it; either may be an address, such as s3://bucket/results.", parser=place_of)
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 instead of 3 where it cannot tell.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Print every quantity, and how it was measured, not only what answers.", show_default=False)]
Markdown = Annotated[Path | None, option("--markdown", "Add Markdown to this file, such as $GITHUB_STEP_SUMMARY. (default: none)", metavar="FILE")]
# fmt: on

# what says where and how to run, not what: no key of a SweepSpec
APART = (
    *("config", "device", "jobs", "engine", "out", "fresh", "force", "exact", "dry_run", "json", "strict", "every"),
    *("model", "expect", "cost", "target", "check_precision", "run_timeout", "max_runs", "retry_failed", "progress"),
    "gpus_per_run",
    *("slurm_partition", "slurm_time", "slurm_gpus", "slurm_cpus", "slurm_groups", "slurm_args", "slurm_poll"),
    *("no_wait", "ray_address", "ray_cpus", "ray_gpus"),
)
LISTS = {"widths": "256,512,1024", "parametrizations": "sp,gdn-mup", "lrs": "1e-3,2e-3", "record": "0,1,2"}


def takes(command: str, *arguments: inspect.Parameter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command (`coord`, `lr` or `run`) its options, and what else it takes, by the signature that typer reads."""
    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context), *arguments]
    for panel, rows in TABLE.items():
        for row in rows:
            if command not in row.of:
                continue
            said = row.default or _default_of(row.key, command)
            text = row.text if row.more == NO_VARIABLE or said == "none" else f"{row.text} (default: {said})"
            more = {
                "rich_help_panel": panel,
                "metavar": row.metavar or ("X" if row.type is float else "N"),
                **dict(row.more),
            }
            if row.type is bool:
                del more["metavar"]
            of_type: Any = row.type if row.value is not None else row.type | None
            annotation = Annotated[of_type, option(row.names, text, **more)]
            parameters.append(
                inspect.Parameter(row.key, inspect.Parameter.KEYWORD_ONLY, default=row.value, annotation=annotation)
            )

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {each.name: each.annotation for each in parameters}
        return function

    return decorate


def _default_of(key: str, kind: str) -> str:
    """Return a default of spec/defaults as the help says it: "A (adamw) or B (sgd), on a GPU C"."""
    by_device = []
    for device in ("cpu", "cuda"):
        adamw, sgd = (
            _written(sweep_defaults({"kind": kind, "optimizer": optimizer}, device=device).get(key, _REST.get(key)))
            for optimizer in ("adamw", "sgd")
        )
        by_device.append(adamw if adamw == sgd else f"{adamw} (adamw) or {sgd} (sgd)")
    cpu, gpu = by_device
    return cpu if cpu == gpu else f"{cpu}, on a GPU {gpu}"


_REST = {
    "n_heads": 2,
    "schedule": "constant",
    "dtype": "float32",
}  # of a SweepSpec, where it is not of a kind or device


def _written(value: Any) -> str:
    if isinstance(value, float):
        mantissa, exponent = value.hex().split("p")
        return f"2^{int(exponent)}" if float.fromhex(mantissa) == 1 else f"{value:g}"
    return ",".join(map(_written, value)) if isinstance(value, tuple | list) else str(value)


def commands_of() -> dict[str, set[str]]:
    """Return which of coord, lr and run take an option, by each of its names."""
    commands: dict[str, set[str]] = {}
    for row in (row for rows in TABLE.values() for row in rows):
        for name in row.names.replace("/", " ").split():
            commands.setdefault(name, set()).update(row.of)
    return commands


def optimizers_and_modes(opt: str | None, mode: str | None) -> tuple[list[str], list[str]]:
    """Return the optimizers and modes that two options name; all where they are left out."""
    from mupcheck.theory.parametrization import MODES, OPTIMIZERS

    optimizers = [one_of(called("--opt", "--optimizer"), opt, OPTIMIZERS)] if opt else list(OPTIMIZERS)
    return optimizers, [one_of(called("--mode"), mode, MODES)] if mode else list(MODES)


def tables_of(text: str) -> list[str]:
    """Return the names and files of tables that an option lists."""
    return list_of(called("--parametrization", "--parametrizations", "-p"), text, str)


def settings(opt: str | None, mode: str | None) -> list[tuple[str, str]]:
    """Return every (optimizer, mode) of them."""
    return list(product(*optimizers_and_modes(opt, mode)))


def list_of(name: str, text: str, convert: type) -> list[Any]:
    """Return the values of a comma-separated list; `name` is what the user calls it.

    Raises:
        ValueError: if one is not of the type, or blanks stand for commas.
    """
    parts = [part.strip() for part in text.split(",")]
    if any(parts) and "" in parts[:-1]:
        raise ValueError(f"{name} {text!r} has an empty place; write a value between two commas")
    parts = [part for part in parts if part]
    # a name with a blank is nobody's, but a file may have one
    if any(
        len(part.split()) > 1 and not (convert is str and part.endswith(".toml") and os.path.exists(part))
        for part in parts
    ):
        raise ValueError(with_commas(name, text.replace(",", " ").split()))
    try:
        return [convert(part) for part in parts]
    except ValueError:
        raise ValueError(f"{name} {text!r} is not a list of whole numbers, such as 256,512,1024") from None


def with_commas(name: str, words: Iterable[str]) -> str:
    """Return the error for a list that was written with blanks."""
    return f"{name} takes a list with commas: {','.join(word.strip(',') for word in words if word.strip(','))}"


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return the value of an option.

    Raises:
        ValueError: if it is not a known one.
    """
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown; known: {', '.join(known)}")
    return value
