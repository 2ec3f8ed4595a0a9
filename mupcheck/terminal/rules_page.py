"""The tables of exponents, and what every parameter gets at one width."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mupcheck.terminal.console import console, number, print_json, table_of

if TYPE_CHECKING:
    from mupcheck.spec.run import RunSpec
    from mupcheck.theory.parametrization import Table


def print_tables(tables: Iterable["Table"], optimizers: Sequence[str], modes: Sequence[str], *, as_json: bool) -> None:
    """Print the exponents of every table."""
    from mupcheck.theory.parametrization import MULTIPLIER_SITES, SOURCES, Role, write_exponent

    if as_json:
        document = []
        for table in tables:
            for optimizer in optimizers:
                for mode in modes:
                    named = {"parametrization": table.name, "optimizer": optimizer, "mode": mode}
                    rules = {role: asdict(table.rule(role, optimizer=optimizer, mode=mode)) for role in Role}
                    multipliers = {site: table.multiplier(site, mode=mode) for site in MULTIPLIER_SITES}
                    document.append(named | {"rules": rules, "multipliers": multipliers})
        print_json(document)
        return
    out = console()
    for table in tables:
        for mode in modes:
            out.print(f"{table.name}, {mode} mode: {table.summary}", soft_wrap=True, style="bold")
            grid = table_of("role", "init std", *(f"lr ({name})" for name in optimizers), "eps", "source")
            for role in Role:
                by_optimizer = [table.rule(role, optimizer=optimizer, mode=mode) for optimizer in optimizers]
                first = by_optimizer[0]
                lrs = [write_exponent(rule.lr) for rule in by_optimizer]
                grid.add_row(role, write_exponent(first.init), *lrs, write_exponent(first.eps), first.source)
            out.print(grid)
            sites = [f"{s} {write_exponent(e)}" for s in MULTIPLIER_SITES if (e := table.multiplier(s, mode=mode))]
            sites += [
                f"weights of role {role} {write_exponent(rule.multiplier)}"
                for role in Role
                if (rule := table.rule(role, optimizer=optimizers[0], mode=mode)).multiplier
            ]
            out.print(f"forward multipliers: {', '.join(sites) or 'none'}\n", soft_wrap=True)
    for line in SOURCES:
        out.print(line, soft_wrap=True)


def print_values(answers: Sequence[tuple["RunSpec", list[dict[str, Any]]]], *, as_json: bool) -> None:
    """Print what every parameter gets at one width."""
    if as_json:
        keys = ("parametrization", "optimizer", "mode", "width", "base_width")
        print_json([{key: getattr(run, key) for key in keys} | {"parameters": rows} for run, rows in answers])
        return
    out = console()
    for run, rows in answers:
        title = f"{run.parametrization}, {run.optimizer}, {run.mode} mode, width {run.width}, m = {run.m:g}"
        out.print(title, soft_wrap=True, style="bold")
        grid = table_of("parameter", "role", "shape", "init std", "lr x", "decay x", "eps x", "multiplier")
        for row in rows:
            std = "as drawn" if row["init_std"] is None else number(row["init_std"], ".4g")
            factors = [number(row[key], ".4g") for key in ("lr", "weight_decay", "eps", "multiplier")]
            grid.add_row(row["site"], row["role"], " x ".join(map(str, row["shape"])), std, *factors)
        out.print(grid)
