"""The public names: what `import mupcheck` gives, in any order, as often as asked, and what it says of wrong use."""

import inspect
import pkgutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from commands import mupcheck as command
from planted_figures import planted_lrs
from planted_slopes import EFFECTIVE, RESIDUAL, make_coords, make_runs
from planted_slopes import results as as_results
from small_results import refusal

import mupcheck
from mupcheck.coordinates.diagnosis import Cause
from mupcheck.results.version import UNKNOWN, version
from mupcheck.sweep import runner

PACKAGE = Path(mupcheck.__file__).parent
MODULES = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "mupcheck.")]
LOOK = """
import inspect
import mupcheck

homes = {}
for name in (*mupcheck.__all__, *reversed(mupcheck.__all__)):
    by_attribute, scope = getattr(mupcheck, name), {}
    exec(f"from mupcheck import {name}", scope)
    assert callable(by_attribute) and not inspect.ismodule(by_attribute), name
    assert scope[name] is by_attribute is homes.setdefault(name, by_attribute), name
"""


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options)


def test_no_name_is_that_of_a_module():
    beside = {module.split(".")[1] for module in MODULES}
    assert beside & set(mupcheck.__all__) == set()
    assert len(set(mupcheck.__all__)) == len(mupcheck.__all__) > 15


def test_every_name_is_the_same_in_a_fresh_process_whatever_was_asked_for_before():
    done = python("-c", LOOK)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_name_is_the_same_after_any_module_was_imported():
    for module in MODULES:
        __import__(module)
    exec(LOOK, {})
    # a module's import sets its name in its package; none of them may hide what is asked for
    assert set(vars(mupcheck)) & set(mupcheck.__all__) == set()


def test_a_name_that_is_not_there_is_told_those_that_are():
    with pytest.raises(AttributeError, match=r"^module 'mupcheck' has no attribute 'transform'; it has .*transfer$"):
        mupcheck.transform  # noqa: B018
    assert set(dir(mupcheck)) == {*mupcheck.__all__, "__version__"}


def test_importing_it_imports_nothing_else():
    code = "import sys; before = {*sys.modules}; import mupcheck; print(*({*sys.modules} - before))"
    outside = {module.partition(".")[0] for module in python("-c", code).stdout.split()}
    assert outside - set(sys.stdlib_module_names) == {"mupcheck"}


# --- the version ------------------------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_project_wherever_it_is_said():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert mupcheck.__version__ == version() == project["version"]
    assert command("--version").out == f"mupcheck {version()}\n"
    assert {"name": "mupcheck", "works": None, "seen": version()} in command("doctor", "--json").json


def test_a_folder_that_nobody_installed_has_a_version_all_the_same(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert mupcheck.__version__ == UNKNOWN


# --- what a prompt shows ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def check():
    """A coordinate check with a slope that fails."""
    runs = make_runs()
    return as_results(runs, make_coords(runs, {EFFECTIVE: -0.5, RESIDUAL: 0.0}, noise=0.01))


@pytest.fixture(scope="module")
def lrs():
    """A learning-rate sweep whose optimum drifts under one of two tables."""
    return mupcheck.Results(planted_lrs(-1.0, names=("gdn-mup", "sp")), pd.DataFrame(), pd.DataFrame(), {})


def test_a_verdict_prints_itself(check):
    (judgement,) = found = mupcheck.judge(check)
    text = str(judgement)
    assert text == str(found)  # print(judge(results)) is what a first user types
    lines = text.splitlines()
    assert lines[0] == "gdn-mup (adamw, head-dim) of s: fail"
    assert "  slopes: 1 pass, 1 fail, 0 cannot tell; 0 are not judged" in lines
    flat = " ".join(text.split())
    assert f"why: {judgement.reason}" in flat and f"next: {judgement.next_step}" in flat
    causes = tuple(Cause(text, "hidden, init", 0.5, 1) for text in ("one", "two"))
    assert "likely cause 2: two (look at: hidden, init)" in str(replace(judgement, causes=causes))
    assert max(map(len, lines)) <= 80
    assert repr(judgement) == (
        "<Judgement gdn-mup (adamw, head-dim) of s: fail; 1 pass, 1 fail, 0 cannot tell; 0 are not judged>"
    )
    assert found._repr_html_().startswith("<pre>gdn-mup (adamw, head-dim) of s: fail")
    assert "of &lt;b&gt;: fail" in replace(judgement, sweep="<b>")._repr_html_()


def test_a_pass_prints_no_more_than_it_needs():
    runs = make_runs()
    (judgement,) = mupcheck.judge(as_results(runs, make_coords(runs, {EFFECTIVE: 0.0}, noise=0.01)))
    assert "next" not in str(judgement) and "cause" not in str(judgement)
    assert "why: all 1 judged slopes are as required" in str(judgement)


def test_a_verdict_on_the_learning_rate_prints_itself(lrs):
    answers = mupcheck.transfer(lrs)
    text = str(answers)
    assert text == "\n\n".join(map(str, answers))
    assert text.startswith("gdn-mup (adamw, head-dim) of lrs: drifts\n")
    assert f"\n  why: drift {answers[0].drift.slope:+.2f} [" in text
    assert max(map(len, text.splitlines())) <= 80
    for optimum in answers[0].optima:
        assert f"width {optimum.width}: best lr {2**optimum.log2_lr:.3g} = 2^{optimum.log2_lr:.2f} [" in text
    assert all(len(repr(answer)) < 200 for answer in answers)
    assert all(len(repr(optimum)) < 200 for optimum in answers[0].optima)


def test_an_optimum_shows_what_is_known_of_it(lrs):
    optimum = mupcheck.find_optima(lrs)[0]
    one_sided = replace(optimum, ci_low=None, ci_high=-5.5, flags=("low edge",))
    assert str(one_sided).endswith(
        f"(lowest measured {optimum.lowest.loss:.4f} at 2^{optimum.lowest.log2_lr:g}) (low edge)"
    )
    assert f"[?, -5.50], fitted val_loss {optimum.loss:.4f} (" in str(one_sided)
    assert str(replace(optimum, log2_lr=None, loss=None, flags=("no finite lr",))) == (
        "width 32: no best lr (no finite lr)"
    )
    assert "[" not in str(replace(optimum, ci_low=None, ci_high=None))


def test_results_say_what_they_hold(check, lrs):
    assert repr(check) == str(check)
    assert len(repr(check)) < 300
    both = mupcheck.Results(
        pd.concat([check.runs.assign(log2_lr=-7.0), lrs.runs]),
        lrs.steps,
        check.coords,
        {"s": {"run_ids": [*check.runs["run_id"], "x"]}},
    )
    flat = " ".join(repr(both).split())
    assert flat.startswith("<Results: 160 runs, 0 step rows, 32 coord rows>")
    assert "s: coord; gdn-mup (adamw, head-dim); widths 64, 128, 256, 512; 1 lr; 4 seeds; 16 runs; 1 missing" in flat
    assert "lrs: lr; gdn-mup, sp (adamw, head-dim); widths 32, 64, 128; 8 lrs; 3 seeds; 144 runs" in flat
    assert both._repr_html_().count("<tr") == 4
    assert len(mupcheck.judge(both)) == 1 and len(mupcheck.transfer(both)) == 2
    odd = both.runs.assign(parametrization="<b>", status="diverged")
    html = mupcheck.Results(odd, lrs.steps, lrs.coords, {})._repr_html_()
    assert "&lt;b&gt;" in html and "<b>" not in html
    assert "144 diverged" in " ".join(repr(mupcheck.Results(odd, lrs.steps, lrs.coords, {})).split())


def test_results_of_nothing_say_so():
    nothing = mupcheck.Results(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), {})
    assert repr(nothing) == "<Results: 0 runs, 0 step rows, 0 coord rows>"
    assert "Results: 0 runs" in nothing._repr_html_()


@pytest.mark.parametrize("name", mupcheck.__all__)
def test_help_has_a_signature_that_fits_a_screen(name):
    public = getattr(mupcheck, name)
    # a record of answers, which nobody makes by hand, may have a few fields more
    lines = 12 if name in ("Transfer", "Judgement") else 10
    assert len(str(inspect.signature(public))) <= lines * 80
    assert " at 0x" not in str(inspect.signature(public))
    assert inspect.getdoc(public).splitlines()[0].rstrip(":").strip()


@pytest.mark.parametrize("spec", [mupcheck.ModelSpec, mupcheck.RunSpec, mupcheck.SweepSpec])
def test_help_of_a_spec_has_a_line_for_every_field(spec):
    doc = inspect.getdoc(spec)
    assert all(f"\n    {name}: " in doc for name in spec.model_fields)
    assert max(map(len, doc.splitlines())) <= 80
    required = [name for name, field in spec.model_fields.items() if field.is_required()]
    assert list(inspect.signature(spec).parameters) == [*required, "fields"]


# --- what it does with what it is given -------------------------------------------------------------------------------


def test_slopes_of_results_are_those_of_their_tables(check):
    slopes = mupcheck.fit_slopes(check)
    pd.testing.assert_frame_equal(slopes, mupcheck.fit_slopes(check.runs, check.coords, tables={}))
    (judgement,) = mupcheck.judge(check)
    pooled = mupcheck.fit_slopes(check, pooled=True)
    pd.testing.assert_frame_equal(pooled, judgement.pooled)
    assert set(pooled["layer"]) == {-1}


def test_a_table_shows_itself_in_a_line():
    table = mupcheck.find_table("gdn-mup")
    assert repr(table).startswith("<Table gdn-mup: muP for Gated DeltaNet") and len(repr(table)) < 200


def test_optima_of_results_are_those_of_their_runs(lrs):
    assert mupcheck.find_optima(lrs) == mupcheck.find_optima(lrs.runs)


@pytest.mark.parametrize("name", ["judge", "fit_slopes", "transfer", "find_optima"])
def test_what_is_no_result_is_told_what_is(name, check, lrs):
    call = getattr(mupcheck, name)
    takes = f"{name}() takes what load_results() returns, not "
    assert refusal(call, None) == f"{takes}None"
    assert refusal(call, []) == f"{takes}a list"
    for given, said in (("results/lr", "the string"), (Path("results/lr"), "the path")):
        assert refusal(call, given) == f"{takes}{said} 'results/lr'; try {name}(load_results('results/lr'))"
    if name in ("judge", "fit_slopes"):
        what = f"{name}() takes a coordinate check, and these results are a learning-rate sweep; transfer() judges that"
        assert refusal(call, lrs) == what
    else:
        what = f"{name}() takes a learning-rate sweep, and these results are a coordinate check; judge() judges that"
        assert refusal(call, check) == what


def test_wrong_use_is_told_in_a_line(check):
    assert refusal(mupcheck.fit_slopes, check.runs).startswith("fit_slopes() of a runs table needs its coords table")
    assert refusal(mupcheck.load_results, None).startswith("load_results() takes the path of a folder, such as ")
    assert "not a Results" in refusal(mupcheck.load_results, check)
    assert refusal(mupcheck.fit_drift, check).endswith("as find_optima() returns them, not a Results")
    assert refusal(mupcheck.run_sweep, "a.toml").endswith(
        "not the string 'a.toml'; try run_sweep(load_sweep('a.toml'))"
    )
    assert refusal(mupcheck.run_sweep, {"kind": "lr"}).endswith("not a dict; try run_sweep(make_sweep(...))")
    assert "not a str" in refusal(mupcheck.make_sweep, "lr")
    assert refusal(mupcheck.find_table, Path("no.toml")) == refusal(mupcheck.find_table, "no.toml")
    without = replace(check, runs=check.runs.assign(coords_sha256="ab"), coords=check.coords[:0])
    for call in (mupcheck.judge, mupcheck.fit_slopes):
        assert f"{call.__name__}() needs the table coords" in refusal(call, without)


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "2"])
def test_no_number_of_processes_is_refused(jobs, tmp_path):
    sweep = mupcheck.make_sweep({"kind": "lr", "data": "synthetic", "widths": [16, 32]})
    assert f"jobs={jobs!r} is no number" in refusal(mupcheck.run_sweep, sweep, out=tmp_path, device="cpu", jobs=jobs)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_of_a_pool_starts_no_processes(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("multiprocessing.current_process", lambda: SimpleNamespace(daemon=True))
    monkeypatch.setattr(runner, "execute", lambda plan, jobs: asked.append(jobs) or ())
    sweep = mupcheck.make_sweep({"kind": "lr", "data": "synthetic", "widths": [16, 32]})
    assert "does not exist" in refusal(mupcheck.run_sweep, sweep, out=tmp_path, device="cpu")
    assert asked == [1]
    assert "give jobs=1" in refusal(mupcheck.run_sweep, sweep, out=tmp_path, device="cpu", jobs=2)


# --- scripts ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import mupcheck
print("once")
given = {"kind": "lr", "name": "s", "data": "synthetic", "widths": [16, 32], "lrs": [0.01], "seeds": 1, "steps": 2}
given |= {"batch_size": 2, "seq_len": 8, "eval_tokens": 16, "parametrizations": ["gdn-mup"]}
print(mupcheck.run_sweep(mupcheck.make_sweep(given), out="results", device="cpu", jobs=2))
import __main__
assert __main__.given is given
"""


def test_a_plain_script_may_run_a_sweep_in_processes(tmp_path):
    (tmp_path / "plain.py").write_text(SCRIPT)
    done = python("plain.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("once\n<Results: 2 runs, 4 step rows") and done.stdout.count("once") == 1
    resolved = mupcheck.load_results(tmp_path / "results").sweeps["s"]
    assert resolved["mupcheck"] == version()


# --- types ------------------------------------------------------------------------------------------------------------

TYPED = """
import mupcheck

spec = mupcheck.ModelSpec(width=128, base_width=64)
model = mupcheck.build_model(spec, parametrization="gdn-mup", seed=0)
results = mupcheck.load_results("results/lr")
for answer in mupcheck.transfer(results):
    print(answer.verdict, answer.drift.slope)
judgements: list[mupcheck.Judgement] = mupcheck.judge(results)
version: str = mupcheck.__version__
"""


@pytest.mark.slow  # some 10 s where `make check` has not left its cache
def test_a_script_type_checks_and_a_wrong_one_does_not(tmp_path):
    assert (PACKAGE / "py.typed").exists()
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["mupcheck"]
    (tmp_path / "right.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text("import mupcheck\nmupcheck.load_results(3)\nmupcheck.ModelSpec(width='a')\n")
    done = python("-m", "mypy", *(str(tmp_path / name) for name in ("right.py", "wrong.py")), cwd=PACKAGE.parent)
    found = [line.rpartition("/")[2] for line in done.stdout.splitlines() if "error" in line]
    assert [line.partition(": ")[0] for line in found[:-1]] == ["wrong.py:2", "wrong.py:3", "wrong.py:3"]
