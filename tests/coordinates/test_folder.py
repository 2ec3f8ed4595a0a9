"""A folder is judged once while nothing in it changes, and again when something does."""

import os

from tiny_sweeps import tiny_coord

from mupcheck.coordinates import folder
from mupcheck.coordinates.folder import judge_folder
from mupcheck.coordinates.judge import judge
from mupcheck.results.reading import load_results
from mupcheck.sweep.runner import run_sweep


def test_a_folder_is_judged_once_until_a_file_changes(tmp_path, monkeypatch):
    sweep = tiny_coord(parametrizations=("gdn-mup",), record=(0, 1), steps=1)
    run_sweep(sweep, out=tmp_path, device="cpu", jobs=1)
    place = tmp_path / sweep.name
    asked = []
    monkeypatch.setattr(folder, "judge", lambda results: asked.append(1) or judge(results))
    first, (judgement,) = judge_folder(place)
    (other,) = judge(load_results(place))
    assert (judgement.reason, judgement.counts) == (other.reason, other.counts)
    assert judge_folder(place)[0] is first and len(asked) == 1
    one = next((place / "coords").iterdir())
    os.utime(one, ns=(1, 1))
    assert judge_folder(place)[0] is not first and len(asked) == 2
    next((place / "runs").iterdir()).unlink()
    assert len(judge_folder(place)[0].runs) == len(first.runs) - 1 and len(asked) == 3
