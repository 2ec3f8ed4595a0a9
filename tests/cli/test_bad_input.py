"""Bad input is one line and exit code 2, and nothing is written."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import mupcheck
from small_sweeps import HERE, LR, SMALL, process, tree

from mupcheck.cli import exits
from mupcheck.sweep.doctor import try_backend

# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def _bad_things():
    """Lay out, where the test stands, what a user can get wrong."""
    Path("file").write_text("a file, not a folder")
    Path("empty.txt").write_text("")
    Path("empty_folder").mkdir()
    Path("short.txt").write_text("too short")
    Path("empty.bin").write_bytes(b"")
    Path("odd.bin").write_bytes(b"abc")
    Path("no_runs/sweep/runs").mkdir(parents=True)
    for name, text in {
        "unknown_key": LR + "frob = 1",
        "wrong_type": LR.replace("steps = 3", 'steps = "3"'),
        "no_kind": 'data = "synthetic"',
        "not_toml": "kind = ",
        "no_lrs": LR.replace('"2^-8:2^-6:2"', "[]"),
        "nan_lr": LR.replace('"2^-8:2^-6:2"', "[nan]"),
        "expects_a_stranger": LR + 'expect = { sp = "drifts" }',
        "expects_nonsense": LR + 'expect = { gdn-mup = "pass" }',
        "many_seeds": LR.replace("seeds = 1", "seeds = 1000000000000"),
        "huge_seed": LR.replace("seeds = 1", "seeds = [9223372036854775808]"),
        "nan_rule": 'name = "mine"\nbase = "sp"\n[[rule]]\nrole = "gate"\nlr = nan',
        "unknown_role": 'name = "mine"\nbase = "sp"\n[[rule]]\nrole = "gates"',
    }.items():
        Path(f"{name}.toml").write_text(text)


BAD_INPUT = [
    ("coord --n-layers=0", "--n-layers 0 is not allowed"),
    ("coord --widths 16,,64", "--widths '16,,64' has an empty place"),
    ("lr-sweep --lrs 2^-8,,2^-6", "--lrs '2^-8,,2^-6' has an empty place"),
    # unknown names
    ("coord -p nope", "-p: unknown parametrization 'nope'; known: sp, "),
    ("coord -p missing.toml", "cannot read the rules file missing.toml: No such file"),
    ("coord -p nan_rule.toml", "nan_rule.toml: lr = nan is not an exponent"),
    ("coord -p unknown_role.toml", "role = 'gates' is unknown; known: embedding, "),
    ("coord -p sp,sp", "twice"),
    ("coord --opt muon", "--opt 'muon' is not allowed: input should be 'adamw' or 'sgd'"),
    ("coord --optimizer muon", "--optimizer 'muon'"),
    ("coord --n-layers 0", "--n-layers 0"),
    ("coord --lrs 0.1,0.2", "--lrs 0.1, 0.2: a coordinate check takes one lr"),
    ("lr-sweep --lr 0.1,fast", "--lr: 'fast'"),
    ("coord --eps 0", "--eps 0.0"),
    ("coord --warmup 4 --record 0,2", "--warmup 4 leaves nothing of --steps 2"),
    ("coord --head-k-dim 0", "--head-k-dim 0"),
    ("lr-sweep --accumulation 3 --batch-size 4", "--accumulation 3 does not divide --batch-size 4"),
    ("lr-sweep --expect pass", "--expect 'pass' is unknown; known: transfers, drifts"),
    ("coord --mode head_dim", "'head-dim' or 'heads'"),
    ("coord --decay-mode none", "'coupled' or 'independent'"),
    ("coord --dtype float16", "'float32', 'bfloat16' or 'float64'"),
    ("coord --backend cuda", "'auto', 'reference', 'chunk' or 'triton'"),
    ("coord --expect maybe", "known: pass, fail"),
    ("coord --expect drifts", "known: pass, fail"),
    ("coord --device abacus", "device 'abacus' is unknown; known: auto, cpu, cuda"),
    ("coord --device cuda:x", "--device 'cuda:x'"),
    ("coord --device cuda:99", "device 'cuda:99' is not there"),
    ("coord --engine kubernetes", "engine 'kubernetes' is not available; known: local"),
    ("lr-sweep --schedule step", "'constant', 'cosine' or 'linear'"),
    # widths
    ("coord --widths 16,20", "--widths: width 20 is not allowed in head-dim mode"),
    ("coord --mode heads --widths 16,20", "width 20 is not allowed in heads mode"),
    ("coord --widths 16 32 64", "--widths takes a list with commas: 16,32,64"),
    ("coord --widths=16 32", "--widths takes a list with commas: 16,32"),
    ("coord --widths 16, 32 --opt sgd", "--widths takes a list with commas: 16,32"),
    ("coord -p sp gdn-mup", "-p takes a list with commas: sp,gdn-mup"),
    ("coord --record 0 1 2", "--record takes a list with commas: 0,1,2"),
    ("lr-sweep --lrs 1e-3 1e-2 --steps 3", "--lrs takes a list with commas: 1e-3,1e-2"),
    ("identities -p sp mup", "-p takes a list with commas: sp,mup"),
    ("explain z_beta -p sp mup", "-p takes a list with commas: sp,mup"),
    ("coord --heads 5", "--heads 5 does not divide 3/4 of --base-width 16; give --head-k-dim and --head-v-dim"),
    ("coord --base-width 17", "--base-width 17"),
    ("coord --widths ,", "widths is empty"),
    ("coord --widths 16,x", "--widths '16,x' is not a list of whole numbers"),
    ("coord --widths 16,16", "twice"),
    ("coord --widths 0", "widths: 0"),
    ("coord --widths=-16", "widths: -16"),
    # learning rates
    ("coord --lr 0", "greater than 0"),
    ("coord --lr=-0.1", "greater than 0"),
    ("coord --lr nan", "--lr: 'nan' is not a number above 0"),
    ("coord --lr inf", "'inf' is not a number above 0"),
    ("coord --lr fast", "'fast' is not a number above 0"),
    ("coord --lr 0.1,0.2", "takes one lr, not 2"),
    ("lr-sweep --lrs ,", "lrs is empty"),
    ("lr-sweep --lrs 0.1,nan", "'nan' is not a number above 0"),
    ("lr-sweep --lrs 1e-4:1e-1", "FROM:TO:FACTOR"),
    ("lr-sweep --lrs 1e-1:1e-4:2", "0 < FROM <= TO"),
    ("lr-sweep --lrs 1e-300:1e300:2", "smaller range"),
    ("run no_lrs.toml", "no_lrs.toml: lrs is empty"),
    ("run nan_lr.toml", "nan_lr.toml: lrs: nan"),
    # other numbers
    ("coord --seeds 0", "--seeds 0 is not"),
    ("coord --seeds=-1", "--seeds -1 is not"),
    ("coord --seeds 1000000000000", "--seeds 1000000000000"),
    ("run many_seeds.toml", "seeds = 1000000000000"),
    ("run huge_seed.toml", "seeds: 9223372036854775808"),
    ("coord --record 0,x", "--record '0,x'"),
    ("coord --record ,", "record is empty"),
    ("coord --weight-decay nan", "--weight-decay nan"),
    ("coord --momentum 1", "--momentum 1.0"),
    ("lr-sweep --clip=-1", "--clip -1.0"),
    ("lr-sweep --steps 0", "--steps 0"),
    ("lr-sweep --steps=-5", "--steps -5"),
    ("lr-sweep --steps 4 --warmup 4", "--warmup 4 leaves nothing of --steps 4"),
    ("coord --layers 0", "--layers 0"),
    # options that are not there, or not of their type
    ("coord --frob", "--frob"),
    ("--frob", "--frob"),
    ("coord --layers many", "--layers"),
    ("coord --weight-decay much", "--weight-decay"),
    ("coord --jobs 0", "--jobs"),
    ("coord --widths", "--widths"),
    ("coord one.toml", "one.toml"),
    ("frobnicate", "frobnicate"),
    ("run", "FILE is missing; see mupcheck run --help"),
    ("run lr.toml --opt sgd", "mupcheck coord or lr-sweep --config FILE --opt"),
    ("run lr.toml --lrs 1e-3", "run takes no --lrs"),
    (
        "rules --width 512 --heads 7",
        "--heads 7 does not divide 3/4 of --base-width 256; give --head-k-dim and --head-v-dim",
    ),
    ("rules --optimizer x", "--optimizer 'x' is unknown"),
    ("check empty_folder --expect maybe", "no runs under"),
    ("rules --width 1.5", "--width"),
    # data
    ("coord --data nothing", "data 'nothing' is not one of stdlib, synthetic, text:PATH"),
    ("coord --data text:missing.txt", "missing.txt does not exist"),
    ("coord --data text:empty.txt", "text:empty.txt is empty"),
    ("coord --data text:empty_folder", "the folder has no files"),
    ("coord --data text:short.txt", "fewer than one batch"),
    ("coord --data tokens:*.none --vocab-size 100", "no file matches"),
    ("coord --data tokens:empty.bin --vocab-size 100", "empty.bin is empty"),
    ("coord --data tokens:odd.bin --vocab-size 100", "odd.bin has 3 bytes"),
    ("coord --data tokens:odd.bin", "--vocab-size"),
    ("coord --vocab-size 1", "--vocab-size 1"),
    ("coord --batch-size 100000000", "fewer than one batch"),
    ("coord --data hf:some/name", "needs the package `datasets`; try pip install"),
    # files and folders
    ("coord --out file/results", "cannot write to file/results"),
    ("coord --out file", "cannot write to file"),
    ("coord --name ../up", "--name '../up'"),
    ("run missing.toml", "cannot read the sweep file missing.toml: No such file"),
    ("run empty_folder", "cannot read the sweep file empty_folder: Is a directory"),
    ("run not_toml.toml", "not_toml.toml is not valid TOML"),
    ("run unknown_key.toml", "unknown_key.toml: unknown key 'frob'; known: accumulation, backend"),
    ("run wrong_type.toml", "wrong_type.toml: steps = '3'"),
    ("run no_kind.toml", "a sweep is of kind 'coord' or 'lr'"),
    ("run expects_a_stranger.toml", "expect names 'sp'"),
    ("run expects_nonsense.toml", "try transfers or drifts"),
    ("coord --config unknown_key.toml", "unknown key 'frob'"),
    ("coord --config wrong_kind.toml", "cannot read"),
    ("plot missing", "missing does not exist"),
    ("plot file", "file is not a folder"),
    ("plot empty_folder", "no runs under empty_folder"),
    ("plot no_runs", "no runs under no_runs"),
    ("plot", "results does not exist"),
    ("rules -p nope", "unknown parametrization 'nope'"),
    ("rules -p nan_rule.toml", "lr = nan"),
    ("rules --opt muon", "known: adamw, sgd"),
    ("rules --mode wide", "known: head-dim, heads"),
    ("rules --width 0", "--width: 0"),
    ("rules --width 257", "--width: width 257 is not allowed"),
]


@pytest.mark.usefixtures("_bad_things", "_no_training")
@pytest.mark.parametrize(("line", "said"), BAD_INPUT, ids=[line for line, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(tmp_path, monkeypatch, line, said):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    command, *options = line.split()
    if command in ("coord", "lr-sweep"):
        options = [*SMALL, *options] if options != ["--widths"] else options
    before = tree(tmp_path)
    answer = mupcheck(command, *options)
    assert (answer.code, answer.out) == (exits.USAGE, ""), answer.err
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1
    assert said.lower() in answer.err.lower()
    assert "Traceback" not in answer.err and "pydantic" not in answer.err
    assert tree(tmp_path) == before


def test_bad_input_looks_the_same_from_a_shell(tmp_path):
    answer = process("coord", "--lr", "nan", "--out", "here")
    assert (answer.code, answer.out) == (exits.USAGE, "")
    assert answer.err == "error: --lr: 'nan' is not a number above 0; write 0.001, 1e-3 or 2^-10\n"
    assert tree(tmp_path) == {}


def test_a_name_of_two_lines_is_refused_in_one(tmp_path):
    for arguments in (("rules", "-p", "two\nlines"), ("run", "two\nlines.toml"), ("plot", "two\nlines")):
        answer = mupcheck(*arguments)
        assert (answer.code, answer.out, answer.err.count("\n"), tree(tmp_path)) == (exits.USAGE, "", 1, {})


def test_a_device_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    answer = mupcheck("coord", *SMALL, "--device", "cuda")
    assert (answer.code, answer.out, tree(tmp_path)) == (exits.USAGE, "", {})
    assert answer.err == "error: --device 'cuda' is not there: torch sees 0 GPUs; try cpu\n"


def test_a_backend_that_is_not_there_is_refused_before_training(tmp_path):
    if try_backend("triton", "cpu")[0]:
        pytest.skip("triton works on this machine's CPU")
    answer = mupcheck("coord", *SMALL, "--backend", "triton")
    assert (answer.code, answer.out, tree(tmp_path)) == (exits.USAGE, "", {})
    assert "triton" in answer.err and "try " in answer.err and answer.err.count("\n") == 1


def test_a_kind_is_run_by_its_own_command(made):
    answer = mupcheck("coord", "--config", made / "lr.toml", *HERE)
    assert answer.code == exits.USAGE
    assert f"is of kind 'lr'; run it with: mupcheck run {made / 'lr.toml'}" in answer.err


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def noise(file: Path) -> None:
    file.write_bytes(b"not Parquet at all")


def foreign(file: Path) -> None:
    pd.DataFrame({"animal": ["cat"], "legs": [4]}).to_parquet(file)


def of_another_run(file: Path) -> None:
    shutil.copy(next(other for other in sorted(file.parent.iterdir()) if other != file), file)


@pytest.mark.parametrize("damage", [cut_short, emptied, noise, foreign, of_another_run], ids=lambda f: f.__name__)
@pytest.mark.parametrize("table", ["runs", "coords"])
def test_a_parquet_file_that_is_not_ours_is_named(copied, table, damage):
    file = sorted((copied / "results" / "coord" / table).iterdir())[0]
    damage(file)
    before = tree(copied)
    answer = mupcheck("plot", copied / "results")
    assert (answer.code, answer.out) == (exits.USAGE, "")
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1 and file.name in answer.err
    assert tree(copied) == before


def test_figures_that_cannot_be_written_are_refused(copied):
    (copied / "results" / "lr" / "figures").write_text("in the way")
    before = tree(copied)
    answer = mupcheck("plot", copied / "results" / "lr")
    assert (answer.code, answer.out, answer.err.count("\n")) == (exits.USAGE, "", 1)
    assert "cannot write to" in answer.err and "with --out" in answer.err and tree(copied) == before
    answer = mupcheck("plot", copied / "results" / "lr", "--out", copied / "results" / "lr" / "figures" / "x")
    assert (answer.code, answer.out, answer.err.count("\n")) == (exits.USAGE, "", 1)


@pytest.mark.usefixtures("_no_training")
def test_names_and_paths_mean_what_they_say():
    # brackets are markup to rich, and colons emoji
    Path("rules.toml").write_text('name = "red"\nbase = "sp"\nsummary = "[bold]not bold[/red] :boom:"\n')
    answer = mupcheck("rules", "-p", "rules.toml")
    assert answer.code == exits.OK and "red, head-dim mode: [bold]not bold[/red] :boom:" in answer.out
    Path("s.toml").write_text(LR + 'question = "[/] or [blue]?"\n')
    answer = mupcheck("run", "s.toml", "--dry-run", "--out", "[/x]", *HERE)
    assert answer.code == exits.OK and "[/x]/s" in answer.out and "[/] or [blue]?" in answer.out
    answer = mupcheck("run", "s.toml", "--dry-run", *HERE, "--config=[/y]")
    assert answer.code == exits.USAGE


def test_stored_results_of_a_table_with_an_odd_name_are_read(monkeypatch):
    Path("rules.toml").write_text('name = "[/red] :boom:"\nbase = "mup"\n')
    Path("lr.toml").write_text(LR.replace('"gdn-mup"', '"rules.toml"'))
    answer = mupcheck("run", "lr.toml", *HERE)
    assert (answer.code, answer.out) == (exits.USAGE, "")
    assert answer.err.startswith(
        "error: lr.toml: parametrizations: rules.toml: name = '[/red] :boom:' is not allowed; a "
    )
    with monkeypatch.context() as before:  # names of tables were limited
        before.setattr("mupcheck.theory.name.NAME_PATTERN", ".*")
        answer = mupcheck("run", "lr.toml", *HERE)
    assert answer.code == exits.CANNOT_TELL, answer.err
    again = mupcheck("check", "results/lr")
    assert again.code == exits.CANNOT_TELL and "[/red] :boom: (adamw, head-dim): cannot tell" in again.out


def test_what_a_source_is_advised_is_said_as_it_is_typed(tmp_path):
    np.arange(20_000, dtype="<u4").__mod__(250).tofile(tmp_path / "wide.bin")
    answer = mupcheck("coord", "--data", "tokens:wide.bin", "--vocab-size", "256", "--dtype", "float32", *HERE)
    assert answer.code == exits.USAGE and "try ?dtype=uint32" in answer.err
