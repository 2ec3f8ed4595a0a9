"""The roles of a model's parameters: what each is, what tables give it, what its user's optimizer does."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mupcheck.terminal.console import console, number, print_json, table_of

if TYPE_CHECKING:
    from mupcheck.roles.report import Powers, RoleRow


def print_roles(
    rows: Sequence["RoleRow"], notes: Sequence[str], widths: tuple[int, int], optimizer: str, *, as_json: bool
) -> None:
    """Print one row for each kind of parameter, then what is unclear and what no table speaks of."""
    if as_json:
        document = [asdict(row) | {"off": row.off} for row in rows]
        print_json({"widths": list(widths), "optimizer": optimizer, "parameters": document, "notes": list(notes)})
        return
    out = console()
    base, width = widths
    tables = list(next((row.rules for row in rows if row.rules), {}))
    out.print(f"Powers of width of init std and lr under {optimizer}, from width {base} to {width}:", soft_wrap=True)
    grid = table_of("parameter", "rows", f"at {base}", f"at {width}", "in", "out", "role", *tables, "yours", "why")
    for row in rows:
        name = row.name if row.count == 1 else f"{row.name} ({row.count})"
        shapes = (" x ".join(map(str, shape)) for shape in (row.base_shape, row.shape))
        growth = ("" if len(row.shape) < 2 else _exponent(row.growth[0]), _exponent(row.growth[1]))
        role = row.role or "?"
        role = f"{role}, tied" if row.tied else role
        own = "not in the optimizer" if row.in_optimizer is False else _powers(row.own)
        own = f"{own} !" if row.off else own
        rules = [_powers(row.rules.get(name)) for name in tables]
        grid.add_row(name, row.part, *shapes, *growth, role, *rules, own, row.why)
    out.print(grid)
    unclear = [row for row in rows if row.role is None]
    for row in unclear:
        title = f"{row.name} rows {row.part}" if row.part else row.name
        out.print(f"? {title}: {row.question}", soft_wrap=True)
    if tables and any(row.off for row in rows):
        out.print(
            f"! is another init or lr than that of {tables[0]}: right only where the forward pass makes up for it",
            soft_wrap=True,
        )
    for note in notes:
        out.print(f"note: {note}", soft_wrap=True)


def _powers(powers: "Powers | None") -> str:
    """Write "-1/2 -1": of init, then of lr."""
    if powers is None:
        return ""
    return " ".join("?" if each is None else _exponent(each) for each in (powers.init, powers.lr))


def _exponent(value: float) -> str:
    from mupcheck.theory.parametrization import write_exponent

    nearest = round(2 * value) / 2
    return write_exponent(nearest) if abs(nearest - value) < 0.005 else number(value, "+.2f")
