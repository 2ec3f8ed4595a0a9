"""Which column of somebody's table is what: by a small list of the names that people use, overruled by the user."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

LOSSES, SIZES = "losses", "sizes"
KINDS = {LOSSES: "lr", SIZES: "coord"}  # what a table holds, and the kind of its runs

# What all runs of a table should share, or what makes groups of them: taken along where it is there.
SHARED = {
    "base_width": ("base_width",),
    "weight_decay": ("weight_decay", "wd"),
    "batch_size": ("batch_size", "global_batch_size", "train_batch_size", "bs"),
    "seq_len": ("seq_len", "seq_length", "sequence_length", "block_size", "context_length", "ctx_len", "max_seq_len"),
    "n_layers": ("n_layers", "n_layer", "num_layers", "num_hidden_layers", "depth"),
    "warmup_steps": ("warmup_steps", "warmup", "num_warmup_steps"),
    "steps": ("max_steps", "num_steps", "total_steps", "n_steps", "train_steps", "num_train_steps"),
    "data": ("data", "dataset"),
    "schedule": ("schedule", "lr_schedule", "lr_scheduler", "scheduler"),
    "vocab_size": ("vocab_size", "n_vocab"),
}
GROUPS = {
    "parametrization": ("parametrization", "parameterization", "param", "scheme"),
    "optimizer": ("optimizer", "opt", "optim", "optimizer_name"),
    "mode": ("mode",),
}
WIDTH = (
    *("width", "d_model", "dmodel", "hidden_size", "n_embd", "n_embed", "embed_dim", "embedding_dim", "model_dim"),
    *("hidden_dim", "dim_model", "model_width", "dim"),
)
LR = {
    "lr": ("lr", "learning_rate", "max_lr", "peak_lr", "base_lr", "max_learning_rate", "peak_learning_rate"),
    "log2_lr": ("log2_lr", "log2lr", "log2_learning_rate", "log_2_lr"),
    "log10_lr": ("log10_lr", "log10lr", "log10_learning_rate"),
}
SEED = ("seed", "random_seed", "rng_seed", "torch_seed")
STEP = ("step", "global_step", "iteration", "iter", "train_step", "trainer_global_step", "t")
NAMES = {
    LOSSES: {
        "width": WIDTH,
        **LR,
        "val_loss": (
            *("val_loss", "eval_loss", "valid_loss", "validation_loss", "test_loss", "dev_loss", "heldout_loss"),
            *("held_out_loss", "loss_val", "loss_eval", "final_val_loss", "eval_cross_entropy"),
        ),
        "train_loss": ("train_loss", "training_loss", "loss_train", "final_train_loss"),
        "loss": ("loss", "final_loss", "cross_entropy", "ce_loss", "nll"),
        "seed": SEED,
        "status": ("status", "state"),
        "step": STEP,
        "run": ("run_id", "run", "id", "run_name", "name", "trial"),
        **GROUPS,
        **SHARED,
    },
    SIZES: {
        "width": WIDTH,
        "value": ("value", "size", "rms", "l2", "mean_abs", "l1"),
        "name": ("name", "site", "module", "parameter", "quantity", "layer_name", "tensor"),
        "seed": SEED,
        "step": STEP,
        "kind": ("kind",),
        "stat": ("stat",),
        "layer": ("layer", "block", "layer_idx", "layer_id"),
        "status": ("status", "state"),
        "lr": LR["lr"],
        **GROUPS,
        **SHARED,
    },
}
KEYS = tuple(dict.fromkeys(key for names in NAMES.values() for key in names))
NEEDED = {LOSSES: ("width", "lr", "loss"), SIZES: ("width", "value", "name")}
STEMS = {"lr": ("lr", "log2_lr", "log10_lr"), "loss": ("val_loss", "train_loss", "loss")}  # any one of these will do
STATS = {"rms": "rms", "l2": "rms", "mean_abs": "mean_abs", "l1": "mean_abs"}  # what a column's name says of its sizes
FILE = "FILE"  # stands for the name of the file in --columns
HELD_OUT = re.compile(r"val|eval|test|dev|held", re.IGNORECASE)
UNIT = re.compile(r"\s*[(\[]([^)\]]*)[)\]]\s*$")
LOGS = {"log2": "log2_lr", "log10": "log10_lr"}
SCALED = re.compile(r"\d|^[%xkKmMµ]$|^(milli|kilo|thousand)")  # a unit that may be a factor on the values
BEFORE = re.compile(r"^(config|summary|hparams|hyperparameters|params|args|cfg)[./_ ]", re.IGNORECASE)
# of these the first of several names is taken; of others two are one too many
FIRST = ("value", "run", "step")


class Match(NamedTuple):
    """A column that may be a key: by its own name (0), one that people use (1) or the end of a longer one (2)."""

    rank: int
    place: int
    column: str


def choose(names: Sequence[str], holds: str, given: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the column of each key that a table has, as the table calls it.

    Args:
        names: columns of the table.
        holds: LOSSES or SIZES.
        given: columns that the user named, by key; FILE is the file itself.
        where: the table, as messages name it.
    Raises:
        ValueError: if a needed key has no column, two columns may be one, or a named one is not there.
    """
    for key, column in given.items():
        if column not in (*names, FILE):
            raise ValueError(f"{where} has no column {column!r} for {key}; it has {listed(names)}")
    chosen: dict[str, str] = {}
    for key in NAMES[holds]:
        if key in given:
            chosen[key] = given[key]
        elif not _stated(key, given) and (found_one := _find(key, names, holds, where)):
            chosen[key] = found_one
    taken = {column for key, column in given.items()}
    chosen = {key: column for key, column in chosen.items() if key in given or column not in taken}
    if {"loss", "train_loss"} <= set(chosen) and "val_loss" not in chosen and "loss" not in given:
        both = f"{chosen['loss']!r} and {chosen['train_loss']!r}"
        raise ValueError(f"{where}: columns {both} may both be the loss; say which: --columns loss={chosen['loss']}")
    if {"val_loss", "train_loss"} & set(chosen):
        chosen.pop("loss", None)
    for stem, any_of in STEMS.items():
        found = [key for key in any_of if key in chosen]
        if stem == "lr" and len(found) > 1:
            for key in found[1:]:
                del chosen[key]  # the same thing twice
    return chosen


def lacking(chosen: Mapping[str, str], holds: str) -> list[str]:
    """Return the needed keys that have no column."""
    return [key for key in NEEDED[holds] if not set(STEMS.get(key, (key,))) & set(chosen)]


def holds_of(names: Sequence[str], given: Mapping[str, str], where: str) -> str:
    """Say whether a table holds losses or sizes.

    Raises:
        ValueError: if it may be both.
    """
    lacks = {holds: lacking(_try(names, holds, given), holds) for holds in KINDS}
    whole = [holds for holds in KINDS if not lacks[holds]]
    if len(whole) > 1:
        raise ValueError(f"{where} may hold losses or sizes; say which: --kind losses, or --kind sizes")
    return whole[0] if whole else SIZES if "value" not in lacks[SIZES] else LOSSES


def need(chosen: Mapping[str, str], names: Sequence[str], holds: str, where: str) -> None:
    """Raise ValueError if a needed key has no column, in a line that names it and what is there."""
    if missing := lacking(chosen, holds):
        key = missing[0]
        also = f" and none for {' and '.join(missing[1:])}" if missing[1:] else ""
        raise ValueError(
            f"{where} has no column for {key}{also}; it has {listed(names)}; "
            f"say which with --columns {','.join(f'{each}=COLUMN' for each in missing)}"
        )


def given_columns(text: str) -> dict[str, str]:
    """Return key and column of "width=config.d_model,lr=config.lr"; a column's name may hold commas.

    Raises:
        ValueError: if a part is no KEY=COLUMN, or a key is not known.
    """
    given: dict[str, str] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", text):
        key, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not column:
            raise ValueError(f"--columns {part.strip()!r} is not KEY=COLUMN, such as width=config.d_model")
        if key not in KEYS:
            raise ValueError(f"--columns {key!r} is no key; known: {', '.join(KEYS)}")
        if key in given:
            raise ValueError(f"--columns names {key} twice: {given[key]!r} and {column!r}; name one")
        given[key] = column
    return given


def listed(names: Collection[str], most: int = 12) -> str:
    """Name columns, the first of many."""
    shown = [repr(name)[1:-1] for name in list(names)[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def plain(name: str) -> str:
    """Return a column's name in small letters and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _stated(key: str, given: Mapping[str, str]) -> bool:
    """Say whether the user named a column for the same thing under another key."""
    return any(key in any_of and set(any_of) & set(given) for any_of in STEMS.values())


def _try(names: Sequence[str], holds: str, given: Mapping[str, str]) -> dict[str, str]:
    return {key: given.get(key, "?") for key in NAMES[holds] if key in given or any(_matches(key, names, holds))}


def _find(key: str, names: Sequence[str], holds: str, where: str) -> str | None:
    """Return the column that is a key, None where none is."""
    found = sorted(_matches(key, names, holds))
    best = [match for match in found if match.rank == found[0].rank]
    if len(best) > 1 and key not in FIRST:
        if key in SHARED:
            return None
        both = " and ".join(repr(match.column) for match in best[:2])
        raise ValueError(f"{where}: columns {both} may both be {key}; say which: --columns {key}={best[0].column}")
    if not best:
        return None
    column = best[0].column
    unit = UNIT.search(column)
    is_log = unit is not None and unit[1].strip().lower() in LOGS
    if unit is not None and not is_log and SCALED.search(unit[1].strip()) and key in ("width", "lr", "step"):
        raise ValueError(
            f"{where}: {column!r} may be {key} times {unit[1].strip()}; write the values in full, or if they are, "
            f"say --columns {key}={column}"
        )
    return column


def _matches(key: str, names: Sequence[str], holds: str) -> Iterator[Match]:
    known = NAMES[holds][key]
    for name in names:
        unit = UNIT.search(name)
        bare = UNIT.sub("", name)
        log = LOGS.get(unit[1].strip().lower(), "") if unit else ""
        if log and plain(bare) in LR["lr"]:
            if key == log:
                yield Match(1, 0, name)
            continue
        if name == key:
            yield Match(0, 0, name)
            continue
        for rank, text in ((1, name), (1, bare), (2, _tail(bare))):
            if plain(text) in known:
                yield Match(rank, known.index(plain(text)), name)
                break


def _tail(name: str) -> str:
    """Return the end of a nested setting's name: "d_model" of "config.model.d_model"; "" of any other."""
    if not BEFORE.match(name):
        return ""
    rest = BEFORE.sub("", name)
    return rest if plain(rest) in _LOSS_NAMES else re.split(r"[./]", rest)[-1]


_LOSS_NAMES = {name for key in STEMS["loss"] for name in NAMES[LOSSES][key]}
