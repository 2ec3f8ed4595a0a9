"""rules and explain: what theory says."""

from typing import Annotated

import typer

from mupcheck.cli.options import Json, Mode, Opt, Tied, optimizers_and_modes, option, tables_of
from mupcheck.cli.typed import called
from mupcheck.terminal.console import say
from mupcheck.terminal.rules_page import print_tables, print_values


def rules(
    tables: Annotated[str | None, option("--parametrization --parametrizations -p", "Tables, by name or .toml file. (default: all shipped)", metavar="LIST")] = None,
    opt: Opt = None, mode: Mode = None,
    width: Annotated[int | None, typer.Option("--width", help="Print the values each parameter gets at this width.", show_default=False, max=2**24)] = None,
    base_width: Annotated[int, option("--base-width", "Width where all factors are 1. (default: 256)", max=2**24)] = 256,
    heads: Annotated[int, option("--heads --n-heads", "Heads at the base width. (default: 4)")] = 4,
    head_k_dim: Annotated[int | None, option("--head-k-dim", "K at the base width. (default: 3/4 of the base width / heads)")] = None,
    head_v_dim: Annotated[int | None, option("--head-v-dim", "V at the base width. (default: 2 K)")] = None,
    tied: Tied = None, json: Json = False,
) -> None:  # fmt: skip
    """Print the parametrization tables: exponents of m = width / base width, with their sources.

    Example: mupcheck rules -p gdn-mup --opt adamw --width 1024 --base-width 256
    """
    from mupcheck.theory.parametrization import TABLES
    from mupcheck.theory.rules_file import find_table

    names = tables_of(tables) if tables else list(TABLES)
    chosen = [find_table(name) for name in names]
    optimizers, modes = optimizers_and_modes(opt, mode)
    if width is None:
        print_tables(chosen, optimizers, modes, as_json=json)
        return
    from mupcheck.model.build import parameter_values
    from mupcheck.spec.reading import make_sweep

    called_so = {"widths": called("--width"), "base_width": called("--base-width")}
    called_so |= {"head_k_dim": "--head-k-dim", "head_v_dim": "--head-v-dim"}
    called_so |= {"n_heads": called("--heads", "--n-heads"), "parametrizations": called("--parametrization", "-p")}
    answers = []
    for optimizer in optimizers:
        for each in modes:
            spec = {"kind": "coord", "widths": [width], "base_width": base_width, "seeds": 1, "parametrizations": names}
            spec |= {"optimizer": optimizer, "mode": each, "n_heads": heads, "n_layers": 1, "tied": tied or False}
            spec |= {"head_k_dim": head_k_dim, "head_v_dim": head_v_dim}
            sweep = make_sweep(spec, names=called_so)
            for run in sweep.runs(vocab_size=256, data_hash=""):
                answers.append((run, parameter_values(run)))
    print_values(answers, as_json=json)


def explain(
    site: Annotated[str | None, typer.Argument(help="An activation or a parameter, such as z_beta or o_proj, or a topic, such as slopes; left out: the list of all.")] = None,
    tables: Annotated[str | None, option("--parametrization --parametrizations -p", "Tables whose rows are shown, by name or .toml file. (default: none)", metavar="LIST")] = None,
    opt: Opt = None, mode: Mode = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Say what a quantity is, which slope is required of it and why, and what is wrong if not; or explain a topic.

    Example: mupcheck explain z_beta -p gdn-mup --opt sgd
    """
    from mupcheck.cli.constants import fill
    from mupcheck.terminal.explain_page import print_explanations
    from mupcheck.terminal.topic_page import print_topic, print_words
    from mupcheck.theory.explain import SITES, explain
    from mupcheck.theory.rules_file import find_table
    from mupcheck.theory.topics import TOPICS, load_topic, nearest

    if site is None:
        print_words(as_json=json)
        return
    if site in TOPICS:
        if tables or opt or mode:
            say(f"{site} is a topic: -p, --opt and --mode change nothing of it")
        print_topic(load_topic(site), fill, as_json=json)
        return
    if site not in SITES:
        near = nearest(site, SITES + TOPICS)
        hint = f"nearest: {', '.join(near)}" if near else "`mupcheck explain` lists both"
        raise ValueError(f"unknown site or topic {site!r}; {hint}")
    chosen = [find_table(name) for name in tables_of(tables)] if tables else []
    optimizers, modes = optimizers_and_modes(opt, mode)
    answers = explain(site, optimizers=optimizers, modes=modes, tables=chosen)
    print_explanations(answers, as_json=json)
