"""Several processes drive one sweep: each run is trained once, and none is lost with one of them."""

import signal

import pytest
from drivers import N, check_drivers, ended, shared, some_started, start, starts, stop
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.results.reading import load_results
from mupcheck.sweep.plan import plan_sweep


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The sweep, driven by one process that nobody disturbs."""
    return numbers(trained(shared(), tmp_path_factory.mktemp("alone"), jobs=1, exact=True)[0])


@pytest.mark.parametrize("n", [2, 4])
def test_each_run_is_trained_once(n, tmp_path, alone):
    check_drivers(n, tmp_path, alone)


def test_rounds_of_two_drivers_agree(tmp_path):
    grid = {"lrs": (2.0**-8, 2.0**-6), "parametrizations": ("gdn-mup",), "widths": (16,), "steps": 3}
    sweep = tiny(refine=True, precision=0.5, **grid)
    alone = trained(sweep, tmp_path / "alone", jobs=1, exact=True)[0]
    assert len(alone.runs) > len(plan_sweep(sweep, out=tmp_path / "none").runs), "there is a round to agree on"
    assert ended(*start(2, tmp_path / "two", sweep=sweep)) == [len(alone.runs)] * 2
    runs, _ = starts(tmp_path / "two")
    assert set(runs.values()) == {1}
    assert_same(numbers(load_results(tmp_path / "two" / "tiny")), numbers(alone))


def test_what_a_killed_driver_held_the_other_trains(tmp_path, alone):
    (killed, left), answers = start(2, tmp_path, pause=0.05)
    some_started(tmp_path, 8, (killed, left))
    stop(killed)
    killed.join()
    assert ended([left], answers) == [N]
    runs, _ = starts(tmp_path)
    assert len(runs) == N and sum(runs.values()) <= N + 1, "what the dead one was at is begun again, and no more"
    assert_same(numbers(load_results(tmp_path / "shared")), alone)
    assert not (tmp_path / "shared" / "claims").exists()


def test_what_a_stopped_driver_held_is_trained_after_a_lease(tmp_path, alone):
    (stopped, left), answers = start(2, tmp_path, pause=0.02, lease=1.0)
    some_started(tmp_path, 8, (stopped, left))
    stop(stopped, signal.SIGSTOP)
    assert ended([left], answers) == [N]
    stop(stopped, signal.SIGCONT)
    assert ended([stopped], answers) == [N], "it goes on, finds all there, and says the same"
    runs, _ = starts(tmp_path)
    assert len(runs) == N and sum(runs.values()) <= N + 1
    assert_same(numbers(load_results(tmp_path / "shared")), alone)
