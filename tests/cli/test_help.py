"""The help tells the truth, completion completes."""

import ast
import os
import re
import subprocess
import sys

import pytest
import typer
from commands import mupcheck
from every_option import COORD_OPTIONS, LR_OPTIONS, help_of, options_of
from small_sweeps import COMMANDS, REPOSITORY

from mupcheck.cli import app, exits
from mupcheck.spec.lrs import parse_lrs
from mupcheck.spec.reading import make_sweep


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_help(command):
    answer = mupcheck(*command.split(), "--help", COLUMNS="200")
    assert (answer.code, answer.err) == (exits.OK, "")
    assert mupcheck(*command.split(), "-h", COLUMNS="200") == answer
    if command:
        assert f"Example: mupcheck {command}" in answer.out
    else:
        for name in COMMANDS:
            assert re.search(rf" {name} +\S", answer.out)
        assert "--show-completion" in answer.out and "--install-completion" in answer.out


def test_the_commands_are_those_of_the_contract():
    commands = typer.main.get_command(app.app).commands
    assert {name for name, command in commands.items() if not command.hidden} == set(COMMANDS)
    assert {name for name, command in commands.items() if command.hidden} == {"work"}  # what engines call


def test_no_command_shows_the_help_and_is_wrong_usage():
    answer = mupcheck()
    assert (answer.code, answer.err) == (exits.USAGE, "")
    assert "Usage" in answer.out and "lr-sweep" in answer.out


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_in_the_help_works(command, copied, monkeypatch):
    example = re.search(r"Example: mupcheck (.*)", typer.main.get_command(app.app).commands[command].help)[1].split()
    assert example[0] == command
    monkeypatch.chdir(REPOSITORY)
    if command == "plot":
        assert example == ["plot", "results/"]
        monkeypatch.setattr("mupcheck.plots.plot_results", lambda path, out, **options: [path])
    if command == "report":
        assert example == ["report", "results/", "--out", "report.html"]
        example = ["report", str(copied / "results"), "--out", str(copied / "report.html")]
    if command in ("status", "ls"):
        monkeypatch.chdir(copied)
    if command in ("gates", "compact"):
        assert example == [command, "results/coord"]
        monkeypatch.chdir(copied)
    if command == "recommend":
        assert example == ["recommend", "results/lr", "--width", "4096", "-p", "gdn-mup"]
        monkeypatch.chdir(copied)
    if command == "selftest":
        monkeypatch.setattr("mupcheck.proof.selftest.plant_faults", lambda faults, jobs: iter(()))
        monkeypatch.setattr("mupcheck.proof.selftest.repeat", lambda n, settings, jobs: iter(()))
    if command == "check":
        assert example == ["check", "results/", "--baseline", "sweeps/baseline.txt"]
        example = ["check", str(copied / "results" / "coord"), "--expect", "fail"]
    if command == "diff":
        assert example == ["diff", "results/before", "results/after"]
        example = ["diff", str(copied / "results" / "coord"), str(copied / "results" / "coord")]
    if command in ("coord", "lr-sweep", "run"):
        example += ["--dry-run", "--out", str(copied / "elsewhere")]
    if command == "audit":
        example += ["--out", str(copied / "elsewhere")]
    # the check here is of sp, which tells nothing of the gates, and the sweep of one seed, which has no interval
    assert mupcheck(*example).code == (exits.CANNOT_TELL if command in ("gates", "recommend") else exits.OK)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_and_what_it_is_without(command):
    without_default = {
        "--config",
        "--width",
        "--dry-run",
        "--force",
        "--json",
        "--strict",
        "--all",
        "--help",
        "file",
        "path",
        *("a", "b"),
    }
    without_default |= {"site", "what", "--update-baseline"}  # the latter not for the environment: it changes a file
    for option in options_of(command):
        text = help_of(option)
        assert text, option.opts
        if option.opts[0] not in without_default:
            assert re.search(r"\(default: .+\)$", text), option.opts
        if command in ("plot", "report") and option.opts[0] == "--out":
            assert option.envvar is None, "MUPCHECK_OUT names the folder of results"
        elif option.opts[0] not in without_default - {"--config"}:
            names = [name for name in option.opts if name.startswith("--")]
            # what is set for a sweep of lrs is not for a check, which has one
            names = names[:1] if option.name == "lrs" else names
            assert option.envvar == ["MUPCHECK_" + name[2:].replace("-", "_").upper() for name in names]


def stated(text: str, device: str, optimizer: str) -> str:
    """Return what a help text says the default is: "(default: B (adamw) or C (sgd), on a GPU D)"."""
    on_cpu, _, on_gpu = re.search(r"\(default: (.*)\)$", text)[1].partition(", on a GPU ")
    text = on_gpu if on_gpu and device == "cuda" else on_cpu
    if " or " in text and "(sgd)" in text:
        text = text.split(" or ")[optimizer == "sgd"].removesuffix(f" ({optimizer})")
    return text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("command", "options"), [("coord", COORD_OPTIONS), ("lr-sweep", LR_OPTIONS)])
def test_the_defaults_in_the_help_are_the_defaults(command, options, optimizer, device):
    kind = "coord" if command == "coord" else "lr"
    defaults = make_sweep({"kind": kind, "optimizer": optimizer}, device=device)
    elsewhere = {
        "--base-width": "smallest width",
        "--name": kind,
        "--head-k-dim": "3/4 of the base",
        "--head-v-dim": "2 K",
    }
    elsewhere |= {"--steps": "the last step to record"} if kind == "coord" else {"--warmup": "a tenth of the steps"}
    checked = 0
    for option in options_of(command):
        name = option.opts[0]
        if name not in options:
            continue
        said, value = stated(help_of(option), device, optimizer), getattr(defaults, options[name][1])
        if name in elsewhere:
            assert elsewhere[name] in said
        elif name in ("--lr", "--lrs"):
            assert parse_lrs(said) == value
        elif name == "--opt":
            assert said == "adamw"
        elif name in ("--tied", "--refine", "--top-up", "--halving"):
            assert (said == name[2:]) == value
        elif name == "--seeds":
            assert int(said) == len(value)
        elif name == "--vocab-size":
            assert said.startswith("256") and value is None
        elif isinstance(value, tuple):
            assert said == ",".join(map(str, value)), name
        elif isinstance(value, float):
            assert float(said) == value, name
        else:
            assert said == str(value), name
        checked += 1
    assert checked == len(options)
    assert make_sweep({"kind": kind}, device=device).optimizer == "adamw"
    if kind == "lr":
        assert defaults.warmup_steps == defaults.steps // 10


@pytest.mark.parametrize(("command", "other"), [("coord", "lr-sweep"), ("lr-sweep", "coord"), ("run", "lr-sweep")])
def test_a_command_says_its_own_defaults_alone(command, other):
    assert other not in mupcheck(command, "--help").out.replace(f"Example: mupcheck {other}", "")


def test_an_option_has_the_name_of_its_key_too():
    for command in ("coord", "lr-sweep"):
        for option in options_of(command):
            if option.opts[0] in (LR_OPTIONS if command == "lr-sweep" else COORD_OPTIONS):
                assert "--" + option.name.replace("_", "-") in option.opts


@pytest.mark.parametrize("columns", [40, 50, 80, 100])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_whole_words_in_any_terminal(command, columns):
    shown = mupcheck(*command.split(), "--help", COLUMNS=str(columns)).out
    wide = mupcheck(*command.split(), "--help", COLUMNS="100").out
    assert shown.split() == wide.split()  # nothing is cut, broken or hyphenated
    long = [line for line in shown.splitlines() if len(line) > columns]
    assert not [line for line in long if len(line.split()) > 1 or columns >= 50]
    if command in ("coord", "lr-sweep"):
        titles = [line for line in shown.splitlines() if line.istitle() and len(line.split()) == 1]
        assert titles == ["Model", "Data", "Optimizer", "Run", "Ray", "Slurm", "Output", "Options"]


ADVISED = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def test_options_that_messages_advise_exist():
    known = {
        name
        for command in COMMANDS
        for option in options_of(command)
        for name in (*option.opts, *option.secondary_opts)
    }
    of_sweeps = {name for c in ("coord", "lr-sweep") for o in options_of(c) for name in (*o.opts, *o.secondary_opts)}
    seen = set()
    for file in (REPOSITORY / "mupcheck").rglob("*.py"):
        if "cli" in file.parts or file.name in ("provenance.py", "sbatch.py"):  # which speak to git, to Slurm
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                seen |= set(ADVISED.findall(node.value))
    assert len(seen) > 10
    assert seen <= known
    # what advice names by its key can be typed, as an option of both commands or of one
    assert {"--head-k-dim", "--head-v-dim", "--eps", "--clip", "--warmup-steps", "--schedule", "--expect"} <= of_sweeps
    for command in ("coord", "lr-sweep"):
        names = {name for option in options_of(command) for name in option.opts}
        assert {"--head-k-dim", "--head-v-dim", "--eps", "--clip", "--warmup", "--schedule", "--expect"} <= names


def test_the_values_in_the_help_are_those_allowed():
    texts = {option.opts[0]: help_of(option) for command in ("coord", "lr-sweep") for option in options_of(command)}
    for name, key in (
        ("--opt", "optimizer"),
        ("--mode", "mode"),
        ("--decay-mode", "decay_mode"),
        ("--dtype", "dtype"),
        ("--backend", "backend"),
        ("--schedule", "schedule"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            make_sweep({"kind": "lr", key: "?"})
        for value in re.findall(r"'([\w-]+)'", str(caught.value)):
            assert value in texts[name], name


def test_help_waits_for_nothing_heavy():
    code = "import sys; sys.argv = ['mupcheck', '--help']; from mupcheck.cli.app import main\ntry: main()\n"
    code += "except SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "Commands" in done.stdout and "mupcheck.cli.app" in done.stderr.split()
    assert not {"rich", "torch", "numpy", "pandas", "scipy", "matplotlib", "pyarrow"} & set(done.stderr.split())


def test_completion_completes():
    # behind the name that a shell completes
    start = "import sys; from mupcheck.cli.app import main; sys.argv = ['mupcheck']; main()"

    def complete(line: str) -> set[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_MUPCHECK_COMPLETE": "complete_bash"}
        done = subprocess.run(
            [sys.executable, "-c", start], capture_output=True, text=True, env=os.environ | words, timeout=60
        )
        assert done.stderr == ""
        return set(done.stdout.split())

    assert complete("mupcheck lr") == {"lr-sweep"}
    assert complete("mupcheck coord --wi") == {"--widths"}
