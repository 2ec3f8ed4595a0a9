"""The slurm engine against commands that run array tasks here: the folder is the truth, nothing is submitted twice."""

import json
import os
import shlex
import signal
import subprocess
import time
from collections import deque

import pytest
from commands import mupcheck
from fake_slurm import FakeSlurm
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.cli import exits
from mupcheck.results.claims import Claims
from mupcheck.results.reading import finished_runs, load_results
from mupcheck.sweep import runner
from mupcheck.sweep.engines import slurm
from mupcheck.sweep.engines.sbatch import Slurm, script_of, seconds_of
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.portion import Portion, write_portion
from mupcheck.sweep.sharing import asks_of

SMALL = "--data synthetic --widths 16,32 --layers 1 --heads 2 --seeds 1 --lrs 2^-8,2^-6 -p gdn-mup --steps 3 --warmup 0"
LR = ["lr-sweep", *SMALL.split(), "--batch-size", "2", "--seq-len", "8", "--eval-tokens", "16", "--device", "cpu"]
ON_SLURM = ["--engine", "slurm", "--slurm-poll", "0.1"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "cluster")
    monkeypatch.setenv("PATH", fake.path)
    monkeypatch.chdir(tmp_path)
    yield fake
    fake.hold(False)
    for task in fake.queue():
        if task["pid"]:
            os.kill(task["pid"], signal.SIGKILL)


def planned(tmp_path, sweep=None):
    return plan_sweep(sweep or tiny(parametrizations=("gdn-mup",)), out=tmp_path / "slurm", here=False, jobs=2)


def through(plan, lines=None, **settings):
    """Execute a plan on the cluster; return the errors."""
    said = [] if lines is None else lines
    how = Slurm(poll=0.1, **settings)

    def engine(plan, waiting):
        return slurm.execute(plan, waiting, slurm=how, say=said.append)

    return [state.error for state in runner.execute(plan, engine=engine) if state.error]


# --- the same rows ----------------------------------------------------------------------------------------------------


def test_a_sweep_has_the_same_rows_as_here_to_the_last_bit(cluster, tmp_path):
    sweep = tiny(parametrizations=("gdn-mup",))
    here, _ = trained(sweep, tmp_path / "local", jobs=1)
    plan, lines = planned(tmp_path, sweep), []
    assert through(plan, lines, groups=2, partition="gpu", time="1h") == []
    assert_same(numbers(load_results(plan.folder)), numbers(here))
    (job,) = cluster.submitted()
    assert (job["--partition"], job["--time"], job["--array"]) == ("gpu", "60", "0-0")
    assert "submitted 4 runs in 1 task as job 1" in lines[0]
    # the backend was compared in the task, as a sweep here does
    resolved = json.loads((plan.folder / "sweep.json").read_text())
    assert resolved["path"] and "failed" not in resolved
    # and what is there already is not submitted
    assert through(planned(tmp_path, sweep)) == [] and len(cluster.submitted()) == 1


def test_run_sweep_takes_slurm(cluster, tmp_path):
    notes = []
    how = {"engine": Slurm(poll=0.1, groups=2), "on_note": notes.append}
    results = runner.run_sweep(tiny(parametrizations=("gdn-mup",)), out=tmp_path, **how)
    assert len(results.runs) == 4 and "submitted 4 runs in 1 task as job 1" in notes[0]


def test_the_command_submits_follows_and_answers(cluster):
    answer = mupcheck(*LR, *ON_SLURM, "--json")
    assert answer.code == exits.CANNOT_TELL, answer.err  # two widths
    assert answer.json[0]["parametrization"] == "gdn-mup"
    assert "submitted 4 runs in 2 tasks as job 1" in answer.err


# --- nothing twice ----------------------------------------------------------------------------------------------------


def test_what_is_in_the_queue_is_not_submitted_again(cluster):
    cluster.hold()
    first = mupcheck(*LR, *ON_SLURM, "--no-wait")
    assert (first.code, first.out) == (exits.OK, "")
    assert "not waiting" in first.err and "--no-wait" not in first.err.splitlines()[-1]
    second = mupcheck(*LR, *ON_SLURM, "--no-wait")
    assert second.code == exits.OK and "4 runs are in the queue already" in second.err
    assert len(cluster.submitted()) == 1
    # more of the same sweep: only that is submitted
    more = [*LR, "--seeds", "2", *ON_SLURM]
    third = mupcheck(*more, "--no-wait")
    assert "submitted 4 runs" in third.err and len(cluster.submitted()) == 2
    cluster.hold(False)
    answer = mupcheck(*more)
    assert answer.code == exits.CANNOT_TELL and len(cluster.submitted()) == 2, answer.err


def test_what_was_cancelled_is_an_error_and_the_same_call_completes_it(cluster, tmp_path):
    cluster.hold()
    assert mupcheck(*LR, *ON_SLURM, "--no-wait").code == exits.OK
    subprocess.run(["scancel", "1_1"], check=True)
    cluster.hold(False)
    # who follows from here finds one group in the queue, and submits the other again
    answer = mupcheck(*LR, *ON_SLURM)
    assert answer.code == exits.CANNOT_TELL, answer.err
    assert [job["--array"] for job in cluster.submitted()] == ["0-1", "0-0"]
    assert len(finished_runs(tmp_path / "results" / "lr")) == 4


def test_a_task_that_is_killed_fails_its_group_and_says_where_its_log_is(cluster, tmp_path, monkeypatch):
    plan = planned(tmp_path)
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('SLURM_ARRAY_TASK_ID') == '0': os.kill(os.getpid(), 9)\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{killed}:{before}")
    (error,) = through(plan)
    assert "2 runs of width 32: task 1_0 ended as CANCELLED" in error and "task-0.log" in error
    failed = json.loads((plan.folder / "sweep.json").read_text())["failed"]
    assert len(failed) == 2 and {each["width"] for each in failed} == {32}
    monkeypatch.setenv("PYTHONPATH", before)
    assert through(planned(tmp_path)) == []
    assert len(finished_runs(plan.folder)) == 4


def test_a_job_that_the_controller_forgot_is_submitted_again_whoever_has_its_number(cluster, tmp_path):
    cluster.hold()
    plan = planned(tmp_path)
    slurm.submit(plan, plan.groups, Slurm(), say=lambda _: None)
    for file in cluster.state.glob("1_*.task"):  # the number goes on living under another name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"name": "another"}))
    earlier, new = slurm.submit(plan, plan.groups, Slurm(), say=lambda _: None)
    assert (len(earlier), len(new)) == (0, 1)


def test_a_controller_that_is_away_is_waited_for_and_nothing_is_submitted_meanwhile(cluster, tmp_path):
    cluster.down()
    plan = planned(tmp_path)
    # an earlier portion makes it ask
    write_portion(Portion(plan.folder, "a" * 12, "tiny", plan.groups[:1], ((0,),)))
    with pytest.raises(ValueError, match="squeue does not answer, so nothing was submitted"):
        slurm.submit(plan, plan.groups, Slurm(), say=lambda _: None)
    assert cluster.submitted() == []
    cluster.down(False)
    lines, errors = [], []
    engine = slurm.execute(plan, deque(plan.groups), slurm=Slurm(poll=0.05), say=lines.append)
    for message in engine:
        errors.append(message.error)
        cluster.down()  # from the first end on: the folder alone tells of the rest
    assert errors == [None, None]


def test_who_follows_is_told_what_frees_a_task_that_is_held():
    lines = []
    slurm._Notes("tiny", lines.append).tell({("key", 3): ("PENDING", "launch failed requeued held")})
    slurm._Notes("tiny", lines.append).tell({("key", 3): ("PENDING", "Resources")})
    assert lines == [
        "tiny: tasks: 1 pending (launch failed requeued held); what is held waits for scontrol release, or scancel and "
        "this command again",
        "tiny: tasks: 1 pending (Resources)",
    ]


def test_what_was_handed_out_is_removed_once_its_job_is_gone_and_its_runs_are_there(cluster, tmp_path):
    plan = planned(tmp_path)
    cluster.hold()
    _, (portion,) = slurm.submit(plan, plan.groups, Slurm(), say=lambda _: None)
    for name, runs in (("a" * 12, "{}"), ("b" * 12, '{"another": {}}')):
        (plan.folder / "work" / name).mkdir()
        (plan.folder / "work" / name / "plan.json").write_text(f'{{"runs": {runs}}}')
        (plan.folder / "work" / name / "job").write_text("99\n")
    cluster.hold(False)
    assert through(planned(tmp_path)) == []
    for _ in range(100):  # its last task may be ending
        if cluster.queue():
            time.sleep(0.1)
    # one that lacks a run may be wanted again
    assert through(planned(tmp_path, tiny(parametrizations=("gdn-mup",), seeds=2))) == []
    left = {each.name for each in (plan.folder / "work").iterdir()}
    assert "b" * 12 in left and not {"a" * 12, portion.key} & left


# --- in a task --------------------------------------------------------------------------------------------------------


def test_the_warning_before_the_limit_ends_a_task_which_is_queued_again_if_it_got_anywhere(cluster, tmp_path):
    """Two groups one after the other; the warning comes in the second, which a second start then trains alone."""
    sweep = tiny(parametrizations=("gdn-mup",), lrs=(2.0**-8,), steps=400, widths=(16, 32))
    plan = planned(tmp_path, sweep)
    _, (portion,) = slurm.submit(plan, plan.groups, Slurm(groups=2), say=lambda _: None)
    warned = False
    for _ in range(3000):
        time.sleep(0.02)
        there = finished_runs(plan.folder)
        queue = cluster.queue()
        if len(there) == 1 and not warned:
            os.kill(queue[0]["pid"], signal.SIGUSR1)
            warned = True
        if not queue and cluster.submitted():
            break
    assert warned
    log = (portion.place / "task-0.log").read_text()
    assert "1 runs ended within the limit of time; queued again for the rest" in log
    assert "task 0" in log and "done" in log  # the second start
    assert len(finished_runs(plan.folder)) == 2


def test_a_task_that_ended_nothing_before_its_warning_is_not_queued_again(cluster, tmp_path):
    plan = planned(tmp_path, tiny(parametrizations=("gdn-mup",), lrs=(2.0**-8,), steps=100_000, widths=(16,)))
    _, (portion,) = slurm.submit(plan, plan.groups, Slurm(), say=lambda _: None)
    log = portion.place / "task-0.log"
    while not (queue := cluster.queue()) or not queue[0]["pid"] or not in_training(queue[0]["pid"]):
        time.sleep(0.05)
    os.kill(queue[0]["pid"], signal.SIGUSR1)
    while cluster.queue():
        time.sleep(0.05)
    assert "error: the limit of time is too short for one group; give a longer --slurm-time" in log.read_text()
    assert finished_runs(plan.folder) == set()
    # who follows it is told so
    (why,) = [slurm._why([portion], [plan.runs[0].run_id])]
    assert "task 1_0 ended as FAILED" in why and "too short" in why


def test_a_task_that_only_waits_for_others_at_its_warning_is_queued_again(cluster, tmp_path):
    plan = planned(tmp_path)
    cluster.hold()
    with Claims(plan.folder, asks=asks_of(plan)) as other:
        run_ids = [run.run_id for run in plan.runs]
        assert other.take(run_ids) == run_ids
        _, (portion,) = slurm.submit(plan, plan.groups, Slurm(groups=2), say=lambda _: None)
        cluster.hold(False)
        log = portion.place / "task-0.log"
        while not (queue := cluster.queue()) or not queue[0]["pid"] or not in_training(queue[0]["pid"]):
            time.sleep(0.05)
        os.kill(queue[0]["pid"], signal.SIGUSR1)
        while "queued again" not in log.read_text():
            time.sleep(0.05)
    assert "queued again for the rest, which others train" in log.read_text()
    while cluster.queue():
        time.sleep(0.05)
    assert finished_runs(plan.folder) == set(run_ids), "its second start finds that nobody holds them any more"


def in_training(pid):
    """Say whether a task's process takes the warning by now, as it does once it has read what to do."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)


def test_the_script_quotes_what_a_shell_and_slurm_would_take_for_theirs(tmp_path):
    portion = Portion(tmp_path / "a b'c 5%", "0" * 12, "tiny", (), ((), ()))
    script = script_of(portion, Slurm(gpus=2, jobs=1, args="--account=lab --comment='two words'"), cuda=True)
    lines = script.splitlines()
    options = [shlex.split(line)[1:] for line in lines if line.startswith("#SBATCH ")]
    assert all(len(option) == 1 for option in options)
    given = [option for (option,) in options]
    assert f"--output={tmp_path}/a b'c 5%%/work/{'0' * 12}/task-%a.log" in given
    assert {"--array=0-1%1", "--gres=gpu:2", "--account=lab", "--comment=two words"} <= set(given)
    command = shlex.split(next(line for line in lines if line.startswith("exec")))
    assert f"{tmp_path}/a b'c 5%" in command and command[-1] == "</dev/null"
    assert not any(option.startswith("--time") for option in given)


LONG = (("01:00:30", 3630), ("2-12", 216000), ("1-00:30", 88200), ("1-0:0:5", 86405))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", None), ("90m", 5400), ("4h", 14400), ("1.5h", 5400), ("1d", 86400), ("30", 1800), ("30:15", 1815), *LONG],
)
def test_times_are_those_of_slurm(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["0", "x", "1w", "-1", "1:2:3:4", "nan", "h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is no time; give one such as 90m"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--slurm-partition", "gpu"], "--slurm-partition belongs to engine slurm; add --engine slurm"),
        (["--no-wait"], "--no-wait belongs to engine slurm"),
        (["--engine", "slurm", "--fresh"], "--fresh is not for engine slurm"),
        (["--engine", "slurm", "--slurm-time", "soon"], "--slurm-time 'soon' is no time"),
        (["--engine", "slurm", "--slurm-gpus", "1"], "does not go with device 'cpu'"),
        (["--engine", "slurm", "--slurm-args", "'"], "--slurm-args"),
        (["--engine", "slurm", "--device", "cuda:1"], "is one of this machine"),
        (["--engine", "slurm", "--slurm-poll", "nan"], "--slurm-poll nan is no number of seconds"),
    ],
)
def test_what_cannot_be_asked_of_slurm_is_one_line(options, said, cluster):
    answer = mupcheck(*LR, *options)
    assert answer.code == exits.USAGE and said in answer.err and len(answer.err.splitlines()) == 1, answer.err
    assert cluster.submitted() == []


def test_without_slurm_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    answer = mupcheck(*LR, "--engine", "slurm")
    assert answer.code == exits.USAGE and len(answer.err.splitlines()) == 1
    assert "needs the command sbatch, which is not on PATH" in answer.err
    assert not (tmp_path / "results").exists()


def test_a_refusal_is_one_line_and_leaves_nothing(cluster, tmp_path):
    answer = mupcheck(*LR, *ON_SLURM, "--slurm-partition", "nowhere")
    assert answer.code == exits.USAGE
    assert "sbatch refused the job: sbatch: error: invalid partition specified: nowhere" in answer.err
    assert [file.name for file in (tmp_path / "results" / "lr" / "work").iterdir()] == ["lock"]
