"""One run of a sweep over several devices: what each rank of a team does, and what works through the groups so."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mupcheck.sweep.engines import team
from mupcheck.sweep.engines.local import Message
from mupcheck.sweep.group import how_trained, on_device, tables_of, write_trained
from mupcheck.sweep.kernels import PRELOAD
from mupcheck.sweep.path import PathTask, compare_path
from mupcheck.sweep.plan import Group, Plan
from mupcheck.sweep.provenance import provenance
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus

# What ranks import beside PRELOAD; the last, which FSDP2 does in its first call, is not known to leave a GPU alone.
SHARED = ("mupcheck.training.sharded", "torch._dynamo")


def over_devices(plan: Plan, corpus: Corpus | None) -> Callable[..., Iterator[Message]]:
    """Return what works through groups of a plan with a team of devices on each; it takes those that wait.

    Args:
        plan: whose runs are shared.
        corpus: what it trains on; None where each process opens it.
    """
    where: dict[str, Any] = {"folder": plan.folder, "corpus": corpus, "provenance": provenance()}
    place = partial(_place, training=partial(train_rank, sweep=plan.sweep.name, **where), where=where)
    preload = (*PRELOAD, *SHARED[: 1 if plan.gpus else 2])
    how: dict[str, Any] = {"teams": plan.teams, "preload": preload, "seconds": plan.limits.group_seconds}
    return partial(team.execute, place=place, alone=_compares, contain=True, **how)


def _place(rank: int, size: int, meeting: Path, *, training: Callable[..., Iterator[int]], where: Any) -> Any:
    """Return the work of a rank."""
    ranked = partial(training, rank=rank, size=size, meeting=meeting)
    return partial(_work, training=ranked, comparing=partial(compare_path, **where))


def _work(
    group: Sequence[Any],
    *,
    training: Callable[..., Iterator[int]],
    comparing: Callable[..., Iterator[int]],
    device: str,
) -> Iterator[int]:
    return (comparing if _compares(group) else training)(group, device=device)


def _compares(group: Sequence[Any]) -> bool:
    return isinstance(group[0], PathTask)


def train_rank(
    group: Group,
    *,
    rank: int,
    size: int,
    meeting: Path,
    folder: Path,
    sweep: str,
    corpus: Corpus | None,
    device: str,
    provenance: Mapping[str, Any],
) -> Iterator[int]:
    """Train one run as one of the ranks that share it, and write it as the first of them; yields as `run_group` does.

    Args:
        group: the run.
        rank: which one this process is.
        size: how many there are.
        meeting: a file through which they find each other.
        folder: of the sweep.
        sweep: its name.
        corpus: what it trains on; None to open it.
        device: of this process.
        provenance: what each row says of where it comes from.
    """
    from mupcheck.model.ranks import Ranks, joined
    from mupcheck.sweep.shared_checkpoints import SharedKeeper
    from mupcheck.training.sharded import train_sharded

    (run,) = group
    corpus = corpus or open_corpus(run.data, vocab_size=run.vocab_size)
    with on_device(device), joined(Ranks(rank, size), device, meeting) as ranks:
        keeper = SharedKeeper(folder, group, device, provenance, ranks=ranks)
        kept = keeper.take_up()
        rows = kept.rows if kept else []
        if kept:
            yield len(rows)
        how: Any = {"start": kept.state if kept else None, "between": partial(keeper.offer, rows)}
        for row in train_sharded(run, corpus, ranks=ranks, device=device, **how):
            rows.append(row)
            yield 1
    if rank:
        return
    trained = how_trained(run, device, seconds=keeper.seconds, started_at=keeper.started_at, devices=size)
    write_trained(folder, tables_of(run, 0, rows), trained | {**provenance, "sweep": sweep})
    keeper.remove()
