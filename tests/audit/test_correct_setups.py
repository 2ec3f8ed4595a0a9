"""Set-ups that are right do not fail; all of them, with several sets of seeds: `python tests/correct_setups.py 3`."""

import pytest
from correct_setups import SETUPS, audit_setup, said

ON_CI = (
    "transformer, SGD with momentum", "Muon, match_rms_adamw", "Muon, 2 key heads", "2 key heads at every width, SGD",
    "gdn, tied", "experts, conv, low rank, fused rows",
)  # fmt: skip


@pytest.mark.parametrize("name", ON_CI)
def test_a_correct_setup_does_not_fail(tmp_path, name):
    judgement = audit_setup(name, tmp_path)
    assert judgement.verdict != "fail", said(judgement)
    assert judgement.counts["pass"] >= 15  # most slopes are decided


def test_there_are_many():
    assert len(SETUPS) >= 20
