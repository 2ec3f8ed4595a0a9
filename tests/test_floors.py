"""Imports go down the floors of style.md, and stay in their column."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mupcheck"

# floor and column of every module; a module imports from its own floor or a lower one, its own column or "shared"
FLOORS = {
    **dict.fromkeys(
        ("spec", "parametrization", "comparable", "expected", "exponents", "implied", "explain", "faults"),
        (0, "shared"),
    ),
    **dict.fromkeys(("tables", "store"), (3, "shared")),
    **dict.fromkeys(("cli", "terminal", "terminal_theory", "__main__"), (6, "shared")),
    **dict.fromkeys(("check_page", "pytest_plugin"), (6, "shared")),
    **dict.fromkeys(("ops",), (1, "measuring")),
    **dict.fromkeys(("model",), (2, "measuring")),
    **dict.fromkeys(("data", "probes", "optim"), (3, "measuring")),
    **dict.fromkeys(("train",), (4, "measuring")),
    **dict.fromkeys(("plan", "runner", "engines", "doctor", "identities"), (5, "measuring")),
    **dict.fromkeys(("slopes", "validity", "diagnosis", "gates", "power"), (4, "judging")),
    **dict.fromkeys(("lr_curve", "optimum", "transfer"), (4, "judging")),
    **dict.fromkeys(("fast_transfer", "penalty", "refine", "robustness", "wider"), (4, "judging")),
    **dict.fromkeys(("plots", "judge", "top_up"), (5, "judging")),
    **dict.fromkeys(("baseline", "compare", "check", "junit", "summary"), (5, "judging")),
    **dict.fromkeys(("judgement_page", "transfer_page", "selftest"), (6, "judging")),
}
BELONGS = {"torch": "measuring", "triton": "measuring", "matplotlib": "judging", "scipy": "judging"}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str) -> set[str]:
    """Top names of what a file imports outside functions and TYPE_CHECKING; of mupcheck, the module's name."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {f"mupcheck.{a.name}" for a in node.names} if module == "mupcheck" else {module}
    return {name.split(".")[1] if name.startswith("mupcheck.") else "/" + name.split(".")[0] for name in names}


def faults(module: str, imported: set[str]) -> list[str]:
    floor, column = FLOORS[module]
    found = []
    for name in imported:
        if name.startswith("/"):
            owner = BELONGS.get(name[1:], column)
            if owner != column:
                found.append(f"{module} ({column}) imports {name[1:]} ({owner})")
        elif name in FLOORS:
            other_floor, other_column = FLOORS[name]
            if other_floor > floor or (other_column not in ("shared", column) and column != "shared"):
                found.append(f"{module} (floor {floor}, {column}) imports {name} (floor {other_floor}, {other_column})")
            if column == "shared" and other_column != "shared":
                found.append(f"{module} is shared and imports {name} ({other_column})")
    return found


def test_every_module_has_a_floor():
    assert {module_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} == set(FLOORS)


def test_imports_go_down():
    found = [
        fault
        for p in PACKAGE.rglob("*.py")
        if module_of(p) != "__init__"
        for fault in faults(module_of(p), imports_of(p.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("spec", "from mupcheck.train import train"),
        ("transfer", "import torch"),
        ("train", "from mupcheck import plots"),
        ("slopes", "from mupcheck.probes import Probe"),
        ("store", "from mupcheck.slopes import fit_slopes"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert faults(module, imports_of(source))


def loaded(statement: str) -> set[str]:
    """Names in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_judging_needs_no_torch_and_measuring_no_matplotlib():
    judging = loaded("import mupcheck.plots, mupcheck.transfer, mupcheck.slopes, mupcheck.store")
    assert "matplotlib" in judging
    assert "torch" not in judging
    measuring = loaded("import mupcheck.train, mupcheck.runner")
    assert "torch" in measuring
    assert measuring.isdisjoint({"matplotlib", "pandas", "scipy"})


def test_help_imports_nothing_heavy():
    help_page = "from typer.testing import CliRunner; from mupcheck.cli import app; CliRunner().invoke(app, ['--help'])"
    assert loaded(help_page).isdisjoint({"torch", "pandas", "pyarrow", "matplotlib", "scipy", "pydantic", "numpy"})
