"""A folder in which the README's commands were run in its order, those that take minutes at a smaller size."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Answer, mupcheck
from quoted import ROOT, blocks, quotes

# on one core, in this process
HERE = "--device cpu --jobs 1"
# the same name and the same files, in seconds instead of minutes
SMALLER = f"--data synthetic --widths 16,32,64 --seeds 2 --steps 5 --batch-size 2 --seq-len 16 --eval-tokens 64 {HERE}"


@dataclass(frozen=True)
class Workplace:
    """The folder, and what each command of the README answered in it."""

    folder: Path
    answers: dict[str, Answer]


def options_here(verb: str) -> str:
    return {"lr-sweep": SMALLER, "coord": HERE}.get(verb, "")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Workplace:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "sweeps").symlink_to(ROOT / "sweeps")
    (folder / "my_rules.toml").write_text(blocks("toml")[0])
    answers = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for quote in quotes():
            if quote.verb == "plot":
                # the figures of the sweep that is shown; those of the coordinate check take longer than it does
                answers[quote.command] = mupcheck("plot", "results/lr")
            elif quote.command.startswith("mupcheck "):
                answers[quote.command] = mupcheck(*shlex.split(f"{quote.command} {options_here(quote.verb)}")[1:])
    return Workplace(folder, answers)
