"""roles: what every parameter of a user's own model is, what tables give it, and what its optimizer does."""

from typing import Annotated

import typer

from mupcheck.cli.exits import CANNOT_TELL, OK
from mupcheck.cli.options import Json, Ladder, list_of, one_of, option, tables_of
from mupcheck.cli.typed import called


def roles(
    file: Annotated[str, typer.Argument(metavar="MODEL", help="Python file with build(width), and where there are any optimizer(model), and roles: a dict or a function of the model; or a family that needs no file, such as transformers:qwen3_next.")],
    widths: Annotated[str, option("--widths", "Two widths that are compared, the base width first. (default: 64,128)", metavar="LIST")] = "64,128",
    ladder: Ladder = None,
    tables: Annotated[str, option("--parametrization --parametrizations -p", "Tables, by name or .toml file, such as mup,gdn-mup. (default: gdn-mup)", metavar="LIST")] = "gdn-mup",
    opt: Annotated[str, option("--opt --optimizer", "Whose rules are shown: adamw or sgd. (default: adamw)", metavar="NAME")] = "adamw",
    json: Json = False,
) -> None:  # fmt: skip
    """Print the role of every parameter of your own torch model, or of a library's, as its sides grow between two widths.

    Example: mupcheck roles sweeps/own_model.py --widths 32,64 -p mup
    """
    from mupcheck.theory.parametrization import OPTIMIZERS
    from mupcheck.theory.rules_file import find_table

    optimizer = one_of(called("--opt", "--optimizer"), opt, OPTIMIZERS)
    chosen = [find_table(name) for name in tables_of(tables)]
    sizes = list_of(called("--widths"), widths, int)
    if len(sizes) != 2 or not 1 <= sizes[0] < sizes[1]:
        raise ValueError(f"{called('--widths')} {widths!r} is not two widths, the smaller first; try 64,128")

    from mupcheck.audit.families import model_named
    from mupcheck.audit.run import built, seeded, stepping
    from mupcheck.roles.notes import notes_on
    from mupcheck.roles.realised import lrs_of
    from mupcheck.roles.report import report
    from mupcheck.terminal.roles_page import print_roles

    user = model_named(file, ladder).user
    for size in sizes:
        user.check_width(size)
    models = []
    for size in sizes:
        seeded(size, 0)
        models.append(built(user, size))
    base, model = models
    given = None
    if user.optimizer is not None:
        here, there = (lrs_of(stepping(user, each, None)[0], each) for each in (model, base))
        given = here, there
    rows = report(model, base, chosen, optimizer=optimizer, roles=user.stated, given=given)
    print_roles(rows, notes_on(model, base), (sizes[0], sizes[1]), optimizer, as_json=json)
    raise typer.Exit(CANNOT_TELL if any(row.role is None for row in rows) else OK)
