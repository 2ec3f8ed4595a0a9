"""Folders are floors: imports go down the house that the package's docstring draws, and never in a circle."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import mupcheck

PACKAGE = Path(mupcheck.__file__).parent
# what only one half of the house may import when it is loaded
BELONGS = {
    "torch": "measuring",
    "triton": "measuring",
    "matplotlib": "judging",
    "scipy": "judging",
    "pandas": "judging",
}
MAX_LINES = 350


def house() -> dict[str, tuple[int, str]]:
    """Return floor and half ("measuring", "judging", "") of each folder, the highest floor first in the docstring."""
    rows = re.findall(r"^    (\w+)  +\S.*?(?:\((measuring|judging)\))?$", mupcheck.__doc__, re.MULTILINE)
    return {room: (len(rows) - i, half) for i, (room, half) in enumerate(rows)}


HOUSE = house()


def module_of(path: Path) -> str:
    """Return "coordinates.judge" of mupcheck/coordinates/judge.py, "model" of mupcheck/model/__init__.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_of(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
del SOURCES["__init__"], SOURCES["__main__"]  # the roof: they import from every floor, and nothing imports them


def imports_of(source: str, modules: Iterable[str] = SOURCES) -> Iterator[tuple[str, bool]]:
    """Yield each module that a file imports, wherever in it, and whether it does so when it is loaded itself.

    Modules of mupcheck come as "coordinates.judge", others as "/torch".
    """
    tree = ast.parse(source)
    deferred = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(outer)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module == "mupcheck"):
            whole = {f"mupcheck.{alias.name}" for alias in node.names}
            # relative, or through the roof: that says nothing of the floor it leads to
            names = [name if name.removeprefix("mupcheck.") in modules else "mupcheck.?" for name in whole]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = {name for name in whole if name.removeprefix("mupcheck.") in modules}
            names = [*inner, *([node.module] if whole - inner else [])]
        for name in names:
            yield (
                name.removeprefix("mupcheck.") if name.startswith("mupcheck.") else f"/{name}",
                id(node) not in deferred,
            )


def named_in(source: str) -> set[str]:
    """Return the modules of mupcheck that a file imports by their names, as "coordinates.judge"."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    named = (call.args[0] for call in calls if call.args and ast.unparse(call.func).endswith("import_module"))
    texts = (ast.unparse(each).strip("f'\"") for each in named)
    return {text.removeprefix("mupcheck.") for text in texts if text.startswith("mupcheck.")}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def faults(module: str, source: str) -> list[str]:
    """Return what one file imports that it may not."""
    floor, half = HOUSE[module.partition(".")[0]]
    found = []
    for name, at_once in imports_of(source):
        if name.startswith("/"):
            owner = BELONGS.get(name[1:].partition(".")[0], half)
            if at_once and half and owner != half:
                found.append(f"{module} ({half}) imports {name[1:]} ({owner})")
            continue
        if name.partition(".")[0] not in HOUSE:
            found.append(f"{module} imports through the roof or relatively; name the file that it is in")
            continue
        other_floor, other_half = HOUSE[name.partition(".")[0]]
        if other_floor > floor:
            found.append(f"{module} imports {name}, which is above it")
        if at_once and half and other_half not in ("", half):
            found.append(f"{module} ({half}) imports {name} ({other_half}); they meet in results alone")
    return found


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, [] where none do."""
    left = {module: set(names) & set(imports) - {module} for module, names in imports.items()}
    while free := [module for module, names in left.items() if not names & set(left)]:
        for module in free:
            del left[module]
    return sorted(left)


def graph() -> dict[str, set[str]]:
    return {module: {name for name, _ in imports_of(source)} for module, source in SOURCES.items()}


def test_the_docstring_draws_the_house_that_stands():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert set(HOUSE) == rooms | files
    assert {half for _, half in HOUSE.values()} == {"measuring", "judging", ""}


def test_imports_go_down_and_stay_in_their_half():
    assert [fault for module, source in SOURCES.items() for fault in faults(module, source)] == []


def test_one_thing_alone_is_reached_upwards_by_its_name():
    up = {
        (module, name)
        for module, source in SOURCES.items()
        for name in named_in(source)
        if name.partition(".")[0] in HOUSE and HOUSE[name.partition(".")[0]][0] > HOUSE[module.partition(".")[0]][0]
    }
    assert up == {("results.reading", "plots.inline")}, "Results.plot, which says why"


def test_no_file_imports_in_a_circle():
    assert circle(graph()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("theory.exponents", "from mupcheck.training.train import train"),
        ("spec", "def later():\n    from mupcheck.training.train import train"),
        ("results.tables", "if TYPE_CHECKING:\n    from mupcheck.coordinates.judge import Judgement"),
        ("learning_rates.drift", "import torch"),
        ("training.train", "from matplotlib.figure import Figure"),
        ("sweep.runner", "from mupcheck.coordinates.judge import judge"),
        ("coordinates.slopes", "from mupcheck.measuring import probes"),
        ("results.store", "import mupcheck.coordinates.slopes"),
        ("results.store", "def later():\n    from ..gate import check"),
        ("results.store", "def later():\n    from mupcheck import transfer"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert faults(module, source)


def test_the_driver_may_meet_the_judge_between_two_rounds():
    assert not faults("sweep.runner", "def rounds():\n    from mupcheck.coordinates.judge import judge")


def test_a_circle_is_found():
    console, page = "terminal.console", "terminal.judgement_page"
    assert {console, page} <= set(circle(graph() | {console: {page}, page: {console}}))
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert circle({"a": {"b"}, "b": set()}) == []


def test_no_file_is_two():
    files = [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    long = {str(file): n for file in files if (n := file.read_text(encoding="utf-8").count("\n")) > MAX_LINES}
    assert long == {}, "a file on its way past so many lines is usually two ideas"


def loaded(statement: str) -> set[str]:
    """Names in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_judging_needs_no_torch_and_measuring_no_matplotlib():
    judging = loaded("import mupcheck.plots, mupcheck.learning_rates.drift, mupcheck.coordinates.judge")
    assert "matplotlib" in judging
    assert "torch" not in judging
    measuring = loaded("import mupcheck.training.train, mupcheck.sweep.runner")
    assert "torch" in measuring
    assert measuring.isdisjoint({"matplotlib", "pandas", "scipy"})


def test_help_imports_nothing_heavy():
    help_page = (
        "from typer.testing import CliRunner; from mupcheck.cli.app import app; CliRunner().invoke(app, ['--help'])"
    )
    assert loaded(help_page).isdisjoint({"torch", "pandas", "pyarrow", "matplotlib", "scipy", "pydantic", "numpy"})
