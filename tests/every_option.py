"""A value for every option of a sweep, and the options of every command."""

import typer

from mupcheck.cli import app

COORD_OPTIONS = {
    "--widths": ("32, 64", "widths", [32, 64]),
    "--base-width": ("16", "base_width", 16),
    "--parametrization": ("sp,mup", "parametrizations", ["sp", "mup"]),
    "--opt": ("sgd", "optimizer", "sgd"),
    "--momentum": ("0.5", "momentum", 0.5),
    "--lr": ("2^-5", "lrs", [2**-5]),
    "--mode": ("heads", "mode", "heads"),
    "--head-k-dim": ("8", "head_k_dim", 8),
    "--head-v-dim": ("12", "head_v_dim", 12),
    "--layers": ("3", "n_layers", 3),
    "--heads": ("2", "n_heads", 2),
    "--seeds": ("2", "seeds", [0, 1]),
    "--steps": ("7", "steps", 7),
    "--record": ("0,2", "record", [0, 2]),
    "--batch-size": ("3", "batch_size", 3),
    "--seq-len": ("8", "seq_len", 8),
    "--data": ("synthetic", "data", "synthetic"),
    "--vocab-size": ("64", "vocab_size", 64),
    "--tied": (None, "tied", True),
    "--weight-decay": ("0.5", "weight_decay", 0.5),
    "--decay-mode": ("independent", "decay_mode", "independent"),
    "--eps": ("1e-6", "eps", 1e-6),
    "--schedule": ("cosine", "schedule", "cosine"),
    "--warmup": ("2", "warmup_steps", 2),
    "--clip": ("1.5", "clip", 1.5),
    "--dtype": ("float64", "dtype", "float64"),
    "--backend": ("reference", "backend", "reference"),
    "--name": ("mine", "name", "mine"),
    "--top-up": (None, "top_up", True),
    "--budget": ("2.5", "budget", 2.5),
}
_COORD_ONLY = ("--lr", "--record", "--top-up", "--budget")
LR_OPTIONS = {name: option for name, option in COORD_OPTIONS.items() if name not in _COORD_ONLY} | {
    "--lrs": ("2^-5:2^-3:2", "lrs", [2**-5, 2**-4, 2**-3]),
    "--accumulation": ("3", "accumulation", 3),
    "--eval-tokens": ("99", "eval_tokens", 99),
    "--refine": (None, "refine", True),
    "--precision": ("0.5", "precision", 0.5),
    "--halving": (None, "halving", True),
}
# what says where and how to run, not what
APART = {"--model", "--config", "--device", "--jobs", "--engine", "--out", "--fresh", "--force", "--dry-run", "--json"}
APART |= {"--gpus-per-run"}
APART |= {"--exact", "--expect", "--strict", "--all", "--help", "--cost", "--target", "--check-precision"}
APART |= {"--run-timeout", "--max-runs", "--retry-failed", "--budget", "--progress"}
APART |= {"--slurm-partition", "--slurm-time", "--slurm-gpus", "--slurm-cpus", "--slurm-groups", "--slurm-args"}
APART |= {"--slurm-poll", "--no-wait", "--ray-address", "--ray-cpus", "--ray-gpus"}


# --- help and completion ----------------------------------------------------------------------------------------------


def options_of(command: str) -> list:
    """Return the options and arguments of a command."""
    return typer.main.get_command(app.app).commands[command].params


def help_of(option) -> str:
    return " ".join((option.help or "").split())
