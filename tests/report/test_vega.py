"""The page's library is the same, whoever puts it together; a process that does so does not outlive the page."""

import subprocess

import pytest

from mupcheck.report import vega as module
from mupcheck.report.vega import library, library_beside


@pytest.fixture
def started(monkeypatch):
    """The processes that are started, of no library made before."""
    library.cache_clear()
    processes, real = [], subprocess.Popen

    def popen(*args, **options):
        processes.append(real(*args, **options))
        return processes[-1]

    monkeypatch.setattr(module.subprocess, "Popen", popen)
    return processes


def test_a_process_makes_the_library_and_ends(started):
    with library_beside() as made:
        text = made()
    assert len(text) > 100_000
    assert text == library()
    assert [each.returncode for each in started] == [0]
    with library_beside() as made:  # which is known by now
        assert made() == text
    assert len(started) == 1


def test_a_page_that_fails_leaves_no_process(started):
    with pytest.raises(ValueError, match="nothing"), library_beside():
        raise ValueError("nothing")
    assert [each.poll() is not None for each in started] == [True]
    assert started[0].stdout.closed


def test_the_library_is_asked_for_twice_and_made_once(started):
    with library_beside() as made:
        assert made() == made()
    assert len(started) == 1


@pytest.mark.parametrize("fault", ["it ends with an error", "it is no Python", "it cannot be started", "there is none"])
def test_without_a_process_the_library_is_made_here(started, monkeypatch, fault):
    monkeypatch.setattr(module, "PROGRAM", "print('half of it'); raise SystemExit(1)")
    if fault == "it cannot be started":
        monkeypatch.setattr(module.sys, "executable", "/nowhere/python")
    if fault == "there is none":
        monkeypatch.setattr(module.sys, "executable", None)
    if fault == "it is no Python":
        monkeypatch.setattr(module, "PROGRAM", "print('a banner')")
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda snippet: f"bundle of {snippet}")
    with library_beside() as made:
        assert made() == f"bundle of {module.SNIPPET}"
    library.cache_clear()
