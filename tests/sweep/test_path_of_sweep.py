"""A sweep compares its backend with the reference once, loses nothing where that goes wrong, and trains as without."""

import os
import signal
import subprocess
import sys

import pytest
from tiny_sweeps import assert_same, numbers, tiny, tiny_coord, trained

from mupcheck.coordinates.judge import judge
from mupcheck.model import gdn
from mupcheck.ops import gated_delta_rule
from mupcheck.results.files import StoreError
from mupcheck.results.path import QUANTITIES
from mupcheck.results.reading import read_sweep
from mupcheck.sweep import path as module
from mupcheck.sweep import runner
from mupcheck.sweep.path import CPU, compare_path, path_task
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.runner import execute, run_sweep

AT = {"widths": (16, 32), "parametrizations": ("gdn-mup",)}


def entries(out, name="tiny"):
    return read_sweep(out / name)["path"]


def counted(monkeypatch):
    """Count how often a sweep is compared."""
    calls = []
    real = module._compared

    def compared(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "_compared", compared)
    return calls


# --- what is compared, and how often ----------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_says_how_its_backend_compares(jobs, tmp_path):
    results, seen = trained(tiny_coord(), tmp_path, jobs=jobs)
    assert not any(state.note or state.error for state in seen)
    (entry,) = entries(tmp_path)
    row = results.runs.iloc[0]
    assert [entry[name] for name in ("backend", "dtype", "device", "torch", "mupcheck")] == [
        row[name] for name in ("backend", "dtype", "device", "torch", "mupcheck")
    ]
    assert [(each["width"], each["tokens"]) for each in entry["compared"]] == [(16, 16), (16, 165), (32, 16), (32, 165)]
    for each in entry["compared"]:
        assert set(each["errors"]) == set(QUANTITIES)
        # two tables, each with its own inputs: two sequences at 16 tokens
        assert (each["layers"], each["sequences"]) == (1, 4)
        assert 0 < each["error"] < entry["tolerance"]
    assert entry["departures"] == entry["strained"] == []
    line = f"chunk agrees with the reference to {entry['error']:.1e} at 16 and 165 tokens"
    for judgement in judge(results):
        assert judgement.how_measured.endswith(line)


def test_what_is_there_is_not_compared_again_and_what_is_new_is(tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    sweep = tiny(**AT)
    trained(sweep, tmp_path, jobs=1)
    assert len(calls) == 1
    (first,) = entries(tmp_path)
    # nothing to train
    trained(sweep, tmp_path, jobs=1)
    # something, as after an interruption
    next((tmp_path / "tiny" / "runs").iterdir()).unlink()
    trained(sweep, tmp_path, jobs=1)
    assert len(calls) == 1
    assert entries(tmp_path) == [first]
    # other versions: the old entry stays for the runs that it is of
    next((tmp_path / "tiny" / "runs").iterdir()).unlink()
    monkeypatch.setattr(runner, "provenance", lambda: first | {"torch": "other", "triton": None, "python": "3"})
    list(execute(plan_sweep(sweep, out=tmp_path), jobs=1))
    assert len(calls) == 2
    assert [each["torch"] for each in entries(tmp_path)] == [first["torch"], "other"]
    monkeypatch.undo()
    # asked to start again, as who changed the code does
    calls = counted(monkeypatch)
    trained(sweep, tmp_path, jobs=1, fresh=True)
    assert len(calls) == 1
    assert [each["torch"] for each in entries(tmp_path)] == ["other", first["torch"]]
    # another sweep of the same name keeps none of it
    trained(tiny(**AT | {"seq_len": 8}), tmp_path, jobs=1)
    assert [each["compared"][0]["tokens"] for each in entries(tmp_path)] == [8]


def test_rounds_of_a_search_share_one_comparison(tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    refined = {"refine": True, "precision": 1.0, "widths": (16,), "lrs": (2.0**-9, 2.0**-6), "steps": 8}
    results, _ = trained(tiny(**AT | refined), tmp_path, jobs=1)
    assert len(results.runs) > 2
    assert len(calls) == 1
    assert len(entries(tmp_path)) == 1


def test_the_numbers_are_those_of_a_sweep_that_compares_nothing(done, tmp_path, monkeypatch):
    _, compared, _ = done
    monkeypatch.setattr(module, "_compared", lambda *_: {"reason": "left out"})
    without, _ = trained(tiny(), tmp_path, jobs=1)
    assert_same(numbers(without), numbers(compared))


def test_the_smallest_width_the_widest_that_may_be_built_and_other_heads_are_compared(tmp_path):
    def widths_of(**changes):
        task = path_task(plan_sweep(tiny(parametrizations=("gdn-mup",), **changes), out=tmp_path))
        assert all(len(group) == 1 for group in task.groups)
        return [group[0].width for group in task.groups]

    assert widths_of(widths=(64, 16, 32)) == [16, 32, 64]
    assert widths_of(widths=(64, 16, 32), mode="heads") == [16, 64]  # heads of one size
    assert widths_of(widths=(32,)) == [32]
    assert widths_of(widths=(256, 512, 4096)) == [256, 512]
    assert widths_of(widths=(4096, 8192)) == [4096]  # one is compared in any case
    many = widths_of(widths=tuple(range(16, 272, 16)))
    assert (many[0], many[-1], len(many)) == (16, 256, 6)


def test_a_long_sequence_is_added_where_the_sweeps_is_short_and_there_are_tokens():
    assert module._lengths(16, 10_000, 9_999, 165) == [16, 165]
    assert module._lengths(16, 10_000, 99, 165) == [16, 99]
    assert module._lengths(16, 10_000, 16, 165) == [16]
    assert module._lengths(165, 10_000, 9_999, 165) == [165]
    assert module._lengths(2048, 1000, 9_999, 165) == [1000]


def test_a_wide_model_has_fewer_layers_and_a_long_sequence_fewer_tokens(tmp_path):
    sweep = tiny(**AT, n_layers=6)
    (run, *_) = plan_sweep(sweep, out=tmp_path).runs
    assert module._layers(run, 1, CPU) == 4
    small = module.Bounds(model=15_000, tokens=64, states=1000)
    assert 0 < module._layers(run, 1, small) < 4
    assert module._layers(run, 8, small) == 0


# --- what goes wrong --------------------------------------------------------------------------------------------------


def wrong_late(*inputs, **options):
    o, state = gated_delta_rule(*inputs, **options)
    late = (o.new_ones(o.shape[1]).cumsum(0) > 64).to(o.dtype)[:, None, None]
    return o * (1 + late), state


def test_a_kernel_that_is_wrong_beyond_a_chunk_fails_a_check_of_16_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(gdn, "gated_delta_rule", wrong_late)
    results, seen = trained(tiny_coord(**AT), tmp_path, jobs=1)
    (note,) = [state.note for state in seen if state.note]
    assert "o is off by" in note
    assert "tokens 64 to 164 (chunks 3 to 6 of 6) of 165" in note
    assert note.endswith("nothing is off at 16 tokens")
    assert not any(state.error for state in seen)
    (judgement,) = judge(results)
    assert judgement.verdict == "fail"
    assert judgement.reason.startswith(note)


def wrong_at_32(q, k, v, *rest, **options):
    """Be wrong for the heads of width 32 alone, as a kernel chosen by their size may be."""
    o, state = gated_delta_rule(q, k, v, *rest, **options)
    return o * (1.1 if q.shape[-1] == 12 else 1.0), state


def test_a_kernel_that_is_wrong_at_a_middle_width_is_found_there(tmp_path, monkeypatch):
    monkeypatch.setattr(gdn, "gated_delta_rule", wrong_at_32)
    sweep = tiny(**AT | {"widths": (16, 32, 64)})
    assert [run.heads[1] for run in plan_sweep(sweep, out=tmp_path).runs[::2]] == [6, 12, 24]
    trained(sweep, tmp_path, jobs=1)
    (entry,) = entries(tmp_path)
    assert [(each["width"], each["tokens"]) for each in entry["compared"]] == [
        *((16, 16), (16, 165), (32, 165), (64, 16), (64, 165)),
    ]
    assert {each["width"] for each in entry["departures"]} == {32}
    assert [each["factor"] for each in entry["departures"] if each["what"] == "o"] == [pytest.approx(1.1, rel=1e-6)]


def out_of_memory(*_):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2 TiB\nand a second line")


def test_a_comparison_that_runs_out_of_memory_loses_nothing_and_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_compared", out_of_memory)
    sweep = tiny_coord(**AT)
    results, seen = trained(sweep, tmp_path, jobs=1)
    assert len(results.runs) == 4
    (note,) = [state.note for state in seen if state.note]
    assert note.startswith("chunk was not compared with the reference: CUDA out of memory.")
    assert [each.effect for each in judge(results)[0].findings if each.name == "path"] == ["warning"]
    monkeypatch.undo()
    next((tmp_path / "tiny" / "runs").iterdir()).unlink()
    results, _ = trained(sweep, tmp_path, jobs=1)
    (entry,) = entries(tmp_path)
    assert "reason" not in entry


def killed(group, **_):
    os.kill(os.getpid(), signal.SIGKILL)
    yield from group


def test_a_comparison_that_is_killed_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "compare_path", killed)
    results, seen = trained(tiny(**AT), tmp_path, jobs=2)
    assert len(results.runs) == 4
    assert not any(state.error for state in seen)
    (note,) = [state.note for state in seen if state.note]
    assert "SIGKILL" in note
    (entry,) = entries(tmp_path)
    assert "SIGKILL" in entry["reason"]


def full_disk(*_):
    raise StoreError("cannot write sweep.json: No space left on device")


def test_a_comparison_that_cannot_be_written_is_said_and_the_runs_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_path", full_disk)
    monkeypatch.setattr(runner, "write_path", full_disk)
    results, seen = trained(tiny(**AT), tmp_path, jobs=1)
    assert len(results.runs) == 4
    (note,) = [state.note for state in seen if state.note]
    assert note == "chunk was not compared with the reference: cannot write sweep.json: No space left on device"


def interrupted(*_):
    raise KeyboardInterrupt


def test_an_interrupted_comparison_leaves_a_sweep_that_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_compared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(tiny(**AT), out=tmp_path, device="cpu", jobs=1)
    assert entries(tmp_path) == []
    monkeypatch.undo()
    results, _ = trained(tiny(**AT), tmp_path, jobs=1)
    assert len(results.runs) == 4
    assert len(entries(tmp_path)) == 1


def test_a_kernel_that_gives_no_numbers_is_written_as_json_can(tmp_path, monkeypatch):
    def fault(*inputs, **options):
        o, state = gated_delta_rule(*inputs, **options)
        return o * float("nan") if o.shape[1] > 64 else o, state

    monkeypatch.setattr(gdn, "gated_delta_rule", fault)
    plan = plan_sweep(tiny(**AT), out=tmp_path)
    seen = list(execute(plan, jobs=1))
    (note,) = [state.note for state in seen if state.note]
    assert note.startswith("chunk in float32 is not what the reference computes: o is not finite")
    (entry,) = entries(tmp_path)
    assert {each["error"] for each in entry["departures"] if each["what"] == "o"} == {None}


def test_a_plan_is_made_without_torch():
    code = "import mupcheck.sweep.runner, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert compare_path.__module__ == "mupcheck.sweep.path"
