"""Topics read well, say what the code says, and name commands, options and topics that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from commands import mupcheck

from mupcheck.cli import app
from mupcheck.cli.constants import NAMED, fill
from mupcheck.learning_rates.optimum import GUARDS
from mupcheck.terminal.topic_page import COLUMNS, pointer
from mupcheck.theory.explain import SITES
from mupcheck.theory.topics import GROUPS, SEE_ALSO, TOPICS, load_topic

FILES = "mupcheck.theory.topics"
NOT_ASCII = set("±μ")
PROGRAM = typer.main.get_command(app.app)
COMMANDS = PROGRAM.commands
# what a command says instead of doing it
ONLY_SAY = {"coord": "--dry-run", "lr-sweep": "--dry-run", "explain": "", "rules": "", "doctor": ""}
TEXTS = {name: fill("\n\n".join(load_topic(name).blocks)) for name in TOPICS}


def commands_of(name: str) -> list[str]:
    """Return the commands that a topic shows, each on one line."""
    text = "\n\n".join(load_topic(name).blocks).replace("\\\n", " ")
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.startswith("  $ ")]


SHOWN = [(name, command) for name in TOPICS for command in commands_of(name)]


def test_every_file_is_a_topic_of_one_group():
    from importlib.resources import files

    there = {path.name.removesuffix(".txt") for path in files(FILES).iterdir() if path.name.endswith(".txt")}
    assert there == set(TOPICS)
    assert len(TOPICS) == len(set(TOPICS)) == sum(map(len, GROUPS.values()))


def test_topics_are_part_of_the_package_that_is_installed():
    import tomllib

    import mupcheck as package

    root = Path(package.__file__).parent
    settings = tomllib.loads((root.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["mupcheck"]
    shipped = {path for pattern in patterns for path in root.glob(pattern)}
    assert {root / "theory" / "topics" / f"{name}.txt" for name in TOPICS} | {root / "py.typed"} <= shipped


def test_a_word_is_a_topic_or_a_site_and_not_both():
    assert {name.lower() for name in TOPICS}.isdisjoint(site.lower() for site in SITES)


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_reads_well(name):
    answer = mupcheck("explain", name)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == f"{name}: {load_topic(name).title}"
    assert max(map(len, lines)) <= COLUMNS
    assert {char for char in answer.out if ord(char) > 127} <= NOT_ASCII
    assert not re.search(r"[{}]|\bNone\b|  \S.*  $", answer.out), "what was to be filled in"
    assert lines[-1].startswith(SEE_ALSO) or lines[-2].startswith(SEE_ALSO)
    assert 8 <= len(lines) <= 130


@pytest.mark.parametrize("name", TOPICS)
def test_see_also_leads_on(name):
    also = load_topic(name).see_also
    assert set(also) <= set(TOPICS) - {name}
    assert also


def test_every_topic_is_led_to():
    assert set(TOPICS) == {other for name in TOPICS for other in load_topic(name).see_also}


@pytest.mark.parametrize(("name", "command"), SHOWN)
def test_a_command_that_is_shown_parses(name, command):
    program, verb, *rest = shlex.split(command)
    assert program == "mupcheck"
    with COMMANDS[verb].make_context(verb, rest):
        pass


@pytest.mark.usefixtures("nothing_timed")
@pytest.mark.parametrize(("name", "command"), [each for each in SHOWN if each[1].split()[1] in ONLY_SAY])
def test_a_command_that_is_shown_works(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb = command.split()[1]
    if verb in ("coord", "lr-sweep"):
        command = command.replace("--device cuda", "--device cpu").replace(" --dry-run", "")
        command += " --dry-run" if "--data" in command else " --data synthetic --dry-run"
    assert mupcheck(*shlex.split(command)[1:]).code == 0


def test_a_command_that_does_not_parse_is_seen():
    with pytest.raises(Exception, match="--nothing"):
        COMMANDS["coord"].make_context("coord", ["--nothing"])


@pytest.mark.parametrize("name", TOPICS)
def test_options_and_words_in_backticks_exist(name):
    all_of_them = [each for command in (PROGRAM, *COMMANDS.values()) for each in command.params]
    known = {option for each in all_of_them for option in (*each.opts, *each.secondary_opts)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXTS[name])) <= known
    for quoted in re.findall(r"`(mupcheck [^`]*)`", TEXTS[name]):
        _, verb, *rest = shlex.split(quoted)
        assert verb in COMMANDS or verb in known
        assert verb != "explain" or rest[0] in (*SITES, *TOPICS)


def test_numbers_are_those_of_the_code(monkeypatch):
    from mupcheck.coordinates import seeds, slopes
    from mupcheck.theory.required import TOLERANCES

    assert f"lies within {TOLERANCES['activation']} of" in TEXTS["slopes"]
    assert set(TOLERANCES.values()) == {TOLERANCES["activation"]}, "the text says one number for all kinds"
    assert f"at most {slopes.FAMILY_LEVEL:.0%} of checks" in TEXTS["slopes"]
    monkeypatch.setattr(seeds, "MOST_SEEDS", 77)
    assert "up to 77, then larger widths" in fill(load_topic("top-up").blocks[0])


def test_few_numbers_are_written_where_the_code_has_them():
    # a constant of the judging code that stands in a text as a number would go stale unseen
    for name in ("slopes", "validity", "cannot-tell", "drift", "top-up", "refine"):
        text = NAMED.sub("", "\n".join(load_topic(name).blocks))
        assert not re.search(
            r"(?<![\w.^-])(0\.25|0\.5|64|0\.05|10%|90%|1000)(?![\w.])", re.sub(r"  \$ .*", "", text)
        ), name


def test_a_constant_that_is_not_there_is_seen():
    with pytest.raises(AttributeError):
        fill("{coordinates.judge.NO_SUCH_NUMBER}")


def test_every_guard_of_a_verdict_is_explained():
    text = "\n".join(load_topic("cannot-tell").blocks)
    assert set(re.findall(r"GUARDS\[([\w ]+)\]", text)) == set(GUARDS)


def test_the_columns_of_files_are_those_on_disk():
    from mupcheck.results.tables import SCHEMAS

    for schema in SCHEMAS.values():
        for column in schema.names:
            assert re.search(rf"^  {column} +\S", TEXTS["files"], re.MULTILINE), column


def test_figures_that_are_named_are_drawn():
    import mupcheck.plots

    named = re.findall(r"^- (\w+):", "\n".join(load_topic("figures").blocks), re.MULTILINE)
    assert len(named) > 5
    for name in named:
        name = name.replace("TABLE", "<parametrization>").replace("KIND", "<kind>")
        assert re.search(rf"^    {re.escape(name)}[ \[]", mupcheck.plots.__doc__, re.MULTILINE), name


def test_the_custom_table_is_one():
    import tomllib

    from mupcheck.theory.rules_file import parse_table

    (block,) = (block for block in load_topic("tables").blocks if block.startswith("  name"))
    assert parse_table(tomllib.loads(block.replace("\n  ", "\n").strip()), "tables").name == "gates-as-hidden"


def test_the_python_is_python_of_names_that_exist():
    import mupcheck as package

    blocks = [block for block in load_topic("python").blocks if block.startswith("  ")]
    code = "\n".join(line[2:] for block in blocks for line in block.splitlines())
    compile(code, "python.txt", "exec")
    assert set(re.findall(r"mupcheck\.(\w+)\(", code)) <= set(package.__all__)


def test_alone_it_lists_topics_and_sites():
    answer = mupcheck("explain")
    assert (answer.code, answer.err) == (0, "")
    assert max(map(len, answer.out.splitlines())) <= COLUMNS
    for name in TOPICS:
        assert re.search(rf"^  {name} +\S", answer.out, re.MULTILINE)
    for site in SITES:
        assert re.search(rf"(?<!\w){site}(?!\w)", answer.out)


def test_as_json():
    document = mupcheck("explain", "--json").json
    assert [name for names in document["topics"].values() for name in names] == list(TOPICS)
    listed = {site for parts in document["sites"].values() for names in parts.values() for site in names}
    assert listed == set(SITES)
    topic = mupcheck("explain", "drift", "--json").json
    assert topic["name"] == "drift" and topic["blocks"] == [fill(block) for block in load_topic("drift").blocks]


def test_options_of_a_site_do_nothing_to_a_topic_and_that_is_said():
    answer = mupcheck("explain", "slopes", "--opt", "sgd")
    assert answer.out == mupcheck("explain", "slopes").out
    assert answer.err == "slopes is a topic: -p, --opt and --mode change nothing of it\n"


@pytest.mark.parametrize(
    ("word", "near"), [("slope", "slopes"), ("Drift", "drift"), ("exit-code", "exit-codes"), ("mixer", "mixer_out")]
)
def test_an_unknown_word_is_answered_with_the_nearest(word, near):
    answer = mupcheck("explain", word)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert f"unknown site or topic '{word}'; nearest: " in answer.err and near in answer.err
    assert mupcheck("explain", "xxxxxxxx").err.endswith("`mupcheck explain` lists both\n")
    with pytest.raises(ValueError, match=f"unknown topic '{word}'"):
        load_topic(word)


@pytest.mark.parametrize("verdict", ["pass", "fail", "cannot tell", "transfers", "drifts"])
def test_a_verdict_points_to_a_topic_that_exists(verdict):
    topics = [re.fullmatch(r"\(mupcheck explain ([a-z-]+)\)", line)[1] for line in pointer(verdict)]
    assert len(topics) == (verdict != "pass") and set(topics) <= set(TOPICS)
