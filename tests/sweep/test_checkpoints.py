"""A group that is ended goes on from its checkpoint, if that is its own and whole; else it starts anew."""

import errno
import hashlib
import io
import pickle
import threading
import warnings
from pathlib import Path

import pytest
from tiny_sweeps import assert_same, numbers, tiny, tiny_coord, trained

from mupcheck.results.files import TMP_SUFFIX, StoreError
from mupcheck.sweep import checkpoints
from mupcheck.sweep.checkpoint_file import FOLDER, MAGIC, SEAL, headers_in, read_checkpoint, write_checkpoint
from mupcheck.sweep.checkpoints import Keeper, Left, kept_groups, where_of
from mupcheck.sweep.group import run_group
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.provenance import provenance
from mupcheck.sweep.runner import run_sweep


@pytest.fixture(autouse=True)
def _at_every_step(monkeypatch):
    monkeypatch.setenv(checkpoints.VARIABLE, "1e-9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def a_sweep(**changes):
    return tiny(**{"widths": (16,), "steps": 9, "clip": 0.5} | changes)


def working(plan, group=None):
    """Return the work of a plan's first group."""
    where = {"folder": plan.folder, "corpus": plan.corpus, "device": "cpu", "sweep": plan.sweep.name}
    return run_group(group or plan.groups[0], provenance=provenance(), **where)


def ended_after(plan, steps, group=None):
    """Train the first group for some steps, end it as a kill does, and return its checkpoint."""
    work = working(plan, group)
    done = 0
    while done < steps + 1:  # a checkpoint is written once the row after it is asked for
        done += next(work)
    work.close()
    (file,) = (plan.folder / FOLDER).glob("*.ckpt")
    return file


SWEEPS = {
    "adamw": a_sweep(),
    "sgd": a_sweep(optimizer="sgd", tied=True, eval_every=2),
    "diverged": a_sweep(lrs=(2.0**-8, 1e30)),
    "full probes": tiny_coord(widths=(16,), steps=8, record=(0, 1, 3, 7)),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_group_that_was_ended_goes_on_with_the_same_numbers(tmp_path, name):
    sweep = SWEEPS[name]
    whole, _ = trained(sweep, tmp_path / "whole", jobs=1)
    plan = plan_sweep(sweep, out=tmp_path)
    assert len(plan.groups) == 1
    ended_after(plan, 5)
    work = working(plan)
    assert next(work) == 5  # steps that are there
    assert sum(work) == whole.steps["step"].max() + 1 - 5
    assert not (plan.folder / FOLDER).exists()
    assert_same(numbers(run_sweep(sweep, out=tmp_path, device="cpu")), numbers(whole))


def test_time_and_start_are_those_of_all_that_trained(tmp_path, monkeypatch):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    file = ended_after(plan, 3)
    kept = Keeper(plan.folder, plan.groups[0], "cpu", provenance())
    taken = kept.take_up()
    assert kept.started_at == taken.header.started_at
    assert kept.seconds >= taken.header.seconds > 0
    sum(working(plan))
    assert not file.exists()


def test_a_replica_goes_on_alone_from_the_checkpoint_of_more_on_a_cpu(tmp_path):
    """Where a group is halved, or some of its runs are there already."""
    sweep = a_sweep(clip=0.0)
    whole, _ = trained(sweep, tmp_path / "whole", jobs=1)
    plan = plan_sweep(sweep, out=tmp_path)
    ended_after(plan, 5)
    for part in (plan.groups[0][2:3], plan.groups[0][::-1]):
        work = working(plan, part)
        assert next(work) == 5
        assert sum(work) == 4
    got = run_sweep(sweep, out=tmp_path, device="cpu")
    assert got.steps["loss"].tolist() == whole.steps["loss"].tolist()
    assert not (plan.folder / FOLDER).exists()  # all its runs are there
    monkey = Keeper(plan.folder, plan.groups[0], "cpu", provenance())
    monkey.exactly = True  # as on a GPU, where sums depend on how many replicas there are
    assert monkey.take_up() is None


def test_groups_are_made_as_checkpoints_have_them(tmp_path):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    some = plan.groups[0][1:3]
    ended_after(plan, 2, some)
    assert kept_groups(plan.folder, plan.runs, "cpu") == [some]
    assert kept_groups(plan.folder, plan.runs[:2], "cpu") == []  # one of its runs is there
    again = plan_sweep(a_sweep(), out=tmp_path)
    assert sorted(map(len, again.groups)) == [2, 2]
    assert some in again.groups


# --- what is not believed ---------------------------------------------------------------------------------------------


def starts_anew(plan, file, match):
    """Say that the group starts from step 0, that its checkpoint is set aside, and that it is named."""
    work = working(plan)
    with pytest.warns(UserWarning, match=match) as said:
        first = next(work)
    work.close()
    assert first == 1
    assert str(file) in str(said[0].message)
    assert file.with_suffix(".damaged").exists()
    return True


@pytest.mark.parametrize("place", [0, len(MAGIC) + 3, SEAL - 1, SEAL, SEAL + 200, -3000, -500, -1])
def test_one_with_a_flipped_bit_is_set_aside(tmp_path, place):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    file = ended_after(plan, 3)
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    assert starts_anew(plan, file, "its bytes are not those that were written.*4 runs start anew")


@pytest.mark.parametrize("size", [0, 10, SEAL, SEAL + 1, 3000, -1])
def test_one_that_is_cut_is_set_aside(tmp_path, size):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    file = ended_after(plan, 3)
    file.write_bytes(file.read_bytes()[:size])
    assert starts_anew(plan, file, "its bytes are not those that were written")


def test_every_byte_of_a_checkpoint_counts(tmp_path):
    plan = plan_sweep(a_sweep(lrs=(2.0**-8,), parametrizations=("sp",)), out=tmp_path)
    file = ended_after(plan, 1)
    run_ids, where, data = [run.run_id for run in plan.runs], where_of("cpu", provenance()), file.read_bytes()
    assert read_checkpoint(file, run_ids, where).header.step == 1
    other = tmp_path / "other.ckpt"
    for place in range(0, len(data), max(len(data) // 150, 1)):
        other.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        with pytest.raises(ValueError, match="its bytes are not"):
            read_checkpoint(other, run_ids, where)


def test_one_of_other_runs_is_not_taken(tmp_path):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    other = plan_sweep(a_sweep(widths=(32,), base_width=16), out=tmp_path)
    theirs = ended_after(other, 3)
    assert next(working(plan)) == 1  # is not found
    theirs.rename(Keeper(plan.folder, plan.groups[0], "cpu", provenance()).file)
    assert starts_anew(plan, Keeper(plan.folder, plan.groups[0], "cpu", provenance()).file, "it is of other runs")


@pytest.mark.parametrize("name", ["torch", "device", "cpu", "commit", "mupcheck"])
def test_one_of_another_device_or_version_is_not_found(tmp_path, monkeypatch, name):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    file = ended_after(plan, 3)
    here = where_of("cpu", provenance())
    monkeypatch.setattr(checkpoints, "where_of", lambda *_: here | {name: "other"})
    assert next(working(plan)) == 1
    assert file.exists()
    assert kept_groups(plan.folder, plan.runs, "cpu") == []


def test_a_pickle_is_not_run(tmp_path):
    """A file that someone made, hash and all, gets tensors read and nothing called."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "called"), "w"))

    plan = plan_sweep(a_sweep(), out=tmp_path)
    file = ended_after(plan, 3)
    lines = file.read_bytes().split(b"\n", 3)
    body = lines[1] + b"\n" + lines[2] + b"\n" + pickle.dumps(Evil(), protocol=2)
    file.write_bytes(MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    assert starts_anew(plan, file, "is not used")
    assert not (tmp_path / "called").exists()


# --- when one is written, and removed ---------------------------------------------------------------------------------


def clocked(monkeypatch, plan, *, step_seconds, writing=0.0):
    """Return after which steps checkpoints are written by a clock that goes on by so much a step and a writing."""
    now, written = [0.0], []
    monkeypatch.delenv(checkpoints.VARIABLE, raising=False)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])

    def write(file, header, rows, state):
        written.append(len(rows))
        now[0] += writing

    monkeypatch.setattr(checkpoints, "write_checkpoint", write)
    keeper = Keeper(plan.folder, plan.groups[0], "cpu", provenance())
    for step in range(1, 1001):
        now[0] += step_seconds
        keeper.offer([None] * step, lambda: None)
    return written


def test_short_groups_write_none_and_long_ones_every_five_minutes(tmp_path, monkeypatch):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    assert clocked(monkeypatch, plan, step_seconds=0.119) == []
    assert clocked(monkeypatch, plan, step_seconds=1.0) == [120, 420, 720]


def test_writing_takes_two_percent_at_most(tmp_path, monkeypatch):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    written = clocked(monkeypatch, plan, step_seconds=20.0, writing=30.0)
    assert 10 < len(written) <= 0.02 * 20_000 / 30 + 1
    # of a large one the first waits longer, as nobody knows yet how long it takes
    monkeypatch.setattr(checkpoints, "weight_bytes", lambda run: 2**30)
    assert clocked(monkeypatch, plan, step_seconds=10.0)[0] * 10 > 50 * 3 * 4 * 2**30 / 1e8


def test_the_environment_says_how_often_or_never(tmp_path, monkeypatch):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    monkeypatch.setenv(checkpoints.VARIABLE, "0")
    sum(working(plan))
    assert not (plan.folder / FOLDER).exists()
    for wrong in ("-1", "often", "nan"):
        monkeypatch.setenv(checkpoints.VARIABLE, wrong)
        with pytest.raises(ValueError, match="is no number of minutes; give one such as 5"):
            next(working(plan))


def test_a_full_disk_is_said_and_training_goes_on(tmp_path, monkeypatch):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    plan.folder.mkdir(parents=True)
    (plan.folder / FOLDER).write_text("no folder can be here")
    with pytest.warns(UserWarning, match="no checkpoint, training goes on: cannot write"):
        assert sum(working(plan)) == 9


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_error_in_any_write_is_what_it_was_and_the_one_before_stays(tmp_path, monkeypatch, error):
    plan = plan_sweep(a_sweep(lrs=(2.0**-8,), parametrizations=("sp",), clip=0.0), out=tmp_path)
    file = ended_after(plan, 3)
    kept = Keeper(plan.folder, plan.groups[0], "cpu", provenance()).take_up()
    before, left = file.read_bytes(), [0]

    class Failing(io.BufferedWriter):
        def write(self, data):
            left[0] -= 1
            if left[0] < 0:
                raise error
            return super().write(data)

    opened = Path.open
    failing = lambda self, mode: Failing(io.FileIO(self, "x")) if mode == "xb" else opened(self, mode)  # noqa: E731
    monkeypatch.setattr(Path, "open", failing)
    n_writes, met = 0, error
    while met is not None:
        left[0], met = n_writes, None
        try:
            write_checkpoint(file, kept.header, kept.rows, kept.state)
        except (StoreError, KeyboardInterrupt) as raised:
            met = raised
        same_kind = isinstance(met, StoreError if isinstance(error, OSError) else KeyboardInterrupt)
        assert met is None or same_kind
        assert [each.name for each in file.parent.iterdir()] == [file.name]
        assert met is None or file.read_bytes() == before
        n_writes += 5
    assert n_writes > 100


def test_what_a_killed_writer_left_goes_with_the_next_start(tmp_path):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    file = ended_after(plan, 3)
    unfinished = file.with_name(f".{file.name}.1-abcd{TMP_SUFFIX}")
    unfinished.touch()
    assert next(working(plan)) == 3
    assert not unfinished.exists() and file.exists()


def test_a_group_is_left_where_it_is_asked_to_and_keeps_what_took_a_while(tmp_path, monkeypatch):
    plan = plan_sweep(a_sweep(), out=tmp_path)
    monkeypatch.setenv(checkpoints.VARIABLE, "5")
    monkeypatch.setattr(checkpoints, "leaving", threading.Event())
    for seconds, kept in ((10.0, False), (0.0, True)):
        monkeypatch.setattr(checkpoints, "LEAST_SECONDS", seconds)
        work = working(plan)
        assert [next(work) for _ in range(4)] == [1, 1, 1, 1]
        checkpoints.leave()
        with pytest.raises(Left):
            next(work)
        assert [header.step for _, header in headers_in(plan.folder)] == [4] * kept
        checkpoints.leaving.clear()
    assert next(working(plan)) == 4


def test_leftovers_of_finished_runs_are_removed_and_fresh_takes_none(tmp_path):
    sweep = a_sweep()
    plan = plan_sweep(sweep, out=tmp_path)
    file = ended_after(plan, 3)
    data = file.read_bytes()
    trained(sweep, tmp_path, jobs=1)
    file.parent.mkdir()
    file.write_bytes(data)
    trained(sweep, tmp_path, jobs=1)
    assert not file.parent.exists()
    file.parent.mkdir()
    file.write_bytes(data)
    trained(sweep, tmp_path, jobs=1, fresh=True)
    assert not file.parent.exists()
    assert headers_in(plan.folder) == []
