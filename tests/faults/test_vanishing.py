"""What happens to a folder while a sweep trains into it costs what was in it, and the next call completes it."""

import pytest
from commands import mupcheck
from tables import differences, write_sweep_file
from vanishing import EVENTS, wrong_with

from mupcheck.results.reading import load_results
from mupcheck.sweep import runner
from mupcheck.sweep.group import run_group

HERE = ("--device", "cpu", "--jobs", "1", "--exact")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    mupcheck("run", write_sweep_file(place / "s.toml"), "--out", place, *HERE)
    return load_results(place / "s")


@pytest.mark.parametrize("name", EVENTS)
def test_what_nobody_expects_is_one_line_and_the_next_call_completes(tmp_path, monkeypatch, whole, name):
    out = tmp_path / "out"
    happened = []

    def disturbed(group, **options):
        yield from run_group(group, **options)
        if not happened:
            happened.append(name)
            EVENTS[name](out / "s")

    monkeypatch.setattr(runner, "run_group", disturbed)
    command = ("run", write_sweep_file(tmp_path / "s.toml"), "--out", out, *HERE)
    assert not wrong_with(mupcheck(*command))
    assert happened
    if (out / "s").is_file():
        assert not wrong_with(mupcheck(*command), codes=(2, 4))  # as long as it lies there
        (out / "s").unlink()
        (out / "moved").replace(out / "s")
    assert not wrong_with(mupcheck(*command), codes=(0, 1, 3))
    assert not differences(out / "s", whole, complete=True)
