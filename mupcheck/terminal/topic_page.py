"""A topic as text of 80 columns, the list of topics and sites, and the pointer to a topic from another page."""

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict

from mupcheck.terminal.console import console, print_json
from mupcheck.theory.parametrization import Role
from mupcheck.theory.topics import GROUPS, SEE_ALSO, Topic, load_topic

COLUMNS = 80
Fill = Callable[[str], str]
# what each verdict that needs more than its own line leads to
TOPIC_OF = {"fail": "slopes", "cannot tell": "cannot-tell", "drifts": "drift", "transfers": "drift"}


def pointer(verdict: str) -> list[str]:
    """Return the line under a verdict that names its topic, none where there is nothing to explain."""
    return [f"(mupcheck explain {TOPIC_OF[verdict]})"] if verdict in TOPIC_OF else []


def print_topic(topic: Topic, fill: Fill, *, as_json: bool) -> None:
    """Print one topic; `fill` puts in the constants that it names."""
    blocks = [fill(block) for block in topic.blocks]
    if as_json:
        print_json(asdict(topic) | {"blocks": blocks})
        return
    out = console()
    columns = min(COLUMNS, out.width)
    out.print(f"{topic.name}: {topic.title}", soft_wrap=True, style="bold")
    for block in (*blocks, SEE_ALSO + ", ".join(topic.see_also)):
        out.print("\n" + "\n".join(_wrapped(block, columns)), soft_wrap=True)


def print_words(*, as_json: bool) -> None:
    """Print every topic with its title, and the sites by where they are."""
    groups = {group: {name: load_topic(name).title for name in names} for group, names in GROUPS.items()}
    sites = _sites()
    if as_json:
        print_json({"topics": groups, "sites": sites})
        return
    out = console()
    columns = min(COLUMNS, out.width)
    out.print("mupcheck explain TOPIC", style="bold")
    for group, titles in groups.items():
        out.print(f"\n{group}")
        for name, title in titles.items():
            out.print("\n".join(_beside(f"  {name:17} ", title, columns)), soft_wrap=True)
    out.print("\nmupcheck explain SITE", style="bold")
    for group, parts in sites.items():
        out.print(f"\n{group}")
        for part, names in parts.items():
            out.print("\n".join(_beside(f"  {part:17} ", ", ".join(names), columns)), soft_wrap=True)


def _sites() -> dict[str, dict[str, list[str]]]:
    """Return the activations by the part of the model that makes them, the weights by their role."""
    from mupcheck.theory.explain import PLACES_OF_ACTIVATIONS, PLACES_OF_WEIGHTS

    names = list(PLACES_OF_ACTIVATIONS)
    mixer, mlp = names.index("norm1") + 1, names.index("norm2")
    parts = {"mixer": names[mixer:mlp], "elsewhere": names[:mixer] + names[mlp:]}
    roles = {str(role): [name for name, place in PLACES_OF_WEIGHTS.items() if place.role is role] for role in Role}
    return {"activations": parts, "weights, by role": roles}


def _beside(head: str, text: str, columns: int) -> list[str]:
    """Return the lines of a text that stands beside a head."""
    return textwrap.wrap(text, columns, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


def _wrapped(block: str, columns: int) -> Iterator[str]:
    """Yield the lines of a block: paragraphs and lists wrapped, what begins with two blanks as it is."""
    if block.startswith("  "):
        yield from block.splitlines()
        return
    for item in _items(block):
        hang = "  " if item.startswith("- ") else ""
        yield from textwrap.wrap(item, columns, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)


def _items(block: str) -> Iterator[str]:
    """Yield the items of a list, or the paragraph whole."""
    lines: list[str] = []
    for line in block.splitlines():
        if line.startswith("- ") and lines:
            yield " ".join(lines)
            lines = []
        lines.append(line.strip())
    yield " ".join(lines)
