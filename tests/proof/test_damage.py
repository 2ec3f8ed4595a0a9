"""A sweep's files cut and with bits flipped, every so many bytes; `every=1` takes all of them."""

import pyarrow.parquet as pq
import pytest

from mupcheck.proof.damage import KINDS, damage
from mupcheck.results.checked import Stamp, part_of
from mupcheck.results.reading import load_results

# bytes; a run's file is ten times as large as the others
STEP = {"runs": 701, "runs, compacted": 1801, "compact/runs": 1201, "sweep.json": 9}


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_becomes_another_number_or_goes_unnamed(tmp_path, kind):
    (found,) = damage(tmp_path / "results", kinds=(kind,), every=STEP.get(kind, 211))
    assert found.wrong == []
    assert found.n == found.refused + found.unharmed >= 28
    assert found.unharmed == found.n if kind.startswith("compact/") else found.refused > 0.7 * found.n
    assert len(load_results(tmp_path / "results").runs) == 2, "it was made whole again"


def test_a_reader_that_believes_its_files_is_found_out(tmp_path, monkeypatch):
    def believing(run_file, name, _):
        file = part_of(run_file, name)
        return pq.read_table(file), Stamp.of(file.stat())

    monkeypatch.setattr("mupcheck.results.gathering.read_part", believing)
    (found,) = damage(tmp_path / "results", kinds=("steps",), every=41)
    assert any("other values were read" in each for each in found.wrong)
