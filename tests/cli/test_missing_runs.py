"""What a sweep of which runs are missing says first: how many of how many, and the command that completes it."""

from commands import mupcheck
from small_sweeps import HERE

from mupcheck.cli import exits


def cut(copied, monkeypatch, name, n):
    """Take away n runs of a sweep, train none, and return the command that would."""
    for file in sorted((copied / "results" / name / "runs").glob("*.parquet"))[:n]:
        file.unlink()
    monkeypatch.setattr("mupcheck.sweep.runner.execute", lambda *args, **options: iter(()))
    return ("run", copied / f"{name}.toml", "--out", copied / "results", *HERE)


def test_a_cut_learning_rate_sweep_says_so_first(copied, monkeypatch):
    command = cut(copied, monkeypatch, "lr", 2)
    line = "2 of 6 runs of lr are missing; to complete it: " + " ".join(["mupcheck", *map(str, command)])
    answer = mupcheck(*command)
    assert answer.code == exits.CANNOT_TELL
    assert f"cannot tell: {line}" in answer.err
    verdict, reason, *rest = answer.out[answer.out.index("gdn-mup (adamw, head-dim): ") :].splitlines()
    assert (verdict, reason) == ("gdn-mup (adamw, head-dim): cannot tell", f"  why: {line}")
    assert any(each == f"  next: {line.partition(': ')[2]}" for each in rest)
    assert "add widths" not in answer.out and "add seeds" not in answer.out
    (document,) = mupcheck(*command, "--json").json
    assert (document["missing_runs"], document["planned_runs"]) == (2, 6)
    assert document["reason"] == document["missing"] == f"{line} --json"
    assert document["next_step"].endswith("--json")


def test_a_cut_coordinate_check_says_so_first(copied, monkeypatch):
    command = cut(copied, monkeypatch, "coord", 4)
    line = "4 of 9 runs of coord are missing; to complete it: " + " ".join(["mupcheck", *map(str, command)])
    answer = mupcheck(*command)
    assert answer.err.splitlines()[-1] == f"cannot tell: {line}"
    (record,) = mupcheck(*command, "--json").json["summary"]
    assert (record["missing_runs"], record["planned_runs"]) == (4, 9)
    if record["verdict"] == "cannot tell":
        assert record["reason"].startswith(line)
    assert "4 of 9 runs of coord are missing" in answer.out


def test_a_whole_sweep_says_nothing_of_missing_runs(made):
    (document,) = mupcheck("run", made / "lr.toml", "--out", made / "results", *HERE, "--json").json
    assert (document["missing_runs"], document["planned_runs"], document["missing"]) == (0, 6, "")
    assert "add widths" in document["reason"]


def test_an_interrupted_sweep_says_how_much_is_missing_and_what_goes_on(copied, monkeypatch):
    command = cut(copied, monkeypatch, "lr", 2)

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mupcheck.sweep.runner.execute", interrupted)
    answer = mupcheck(*command)
    assert answer.code == exits.INTERRUPTED
    assert "interrupted with 2 of 6 runs missing; " in answer.err
    assert answer.err.rstrip().endswith(" ".join(["mupcheck", *map(str, command)]))
    assert "--fresh" not in mupcheck(*command, "--fresh").err, "it would train again what is kept"
