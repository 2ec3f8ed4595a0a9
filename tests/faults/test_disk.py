"""A crash or an error where a command changes the disk loses nothing: a few of the points that `make faults` tries."""

import pytest
from crash_points import measure as crash
from io_errors import measure as fail
from points import CRASH
from scenes import first, fresh, other_spec, scenes


@pytest.mark.parametrize(("make", "share"), [(first, 0.04), (fresh, 0.03), (other_spec, 0.09)])
def test_the_next_call_completes_what_a_crash_left(tmp_path, make, share):
    (line,) = crash(tmp_path, share=share, makers=(make,), seed=1)
    assert line.good, line.faults


def test_an_error_of_the_disk_is_exit_code_4_and_costs_no_other_run(tmp_path):
    (line,) = fail(tmp_path, share=0.03, makers=(first,), reasons=("ENOSPC",), seed=2)
    assert line.good, line.faults


def write_at_once():
    """Plant a writer that gives files their names before they are whole, the one that vouches first."""
    from mupcheck.results import writing

    def careless(files, **_):
        for path, data in reversed(files):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data)

    writing.write_whole = careless


def test_a_writer_that_is_not_careful_is_found(tmp_path):
    (scene,) = scenes(tmp_path, (first,))
    assert scene.disturb("", -1, plant=write_at_once).code in (0, 1, 3)
    points = (scene.place / "log").read_text().splitlines()
    (at, *_) = [n for n, point in enumerate(points) if point.startswith("half s/runs/")]
    for later in (0, 1):  # with half of a row written, and with a row whose sizes are not there
        scene.disturb(CRASH, at + later, plant=write_at_once)
        assert scene.faults_now()
