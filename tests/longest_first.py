"""How `make test` hands tests to its processes: a file to one process as a whole, what takes longest first.

What the tests of a file share is made once so, and no process still has a minute to do when the others are done.
"""

from collections.abc import Sequence

import pytest
from xdist.scheduler import LoadFileScheduling

# folders whose tests share what takes long to make, so that they go to one process too
TOGETHER = ("tests/readme",)
# what takes 15 s and more, the longest first; all else follows in the order in which it is found
LONGEST = (
    "tests/proof/test_selftest.py",
    "tests/sweep/test_real_slurm.py",
    "tests/readme",
    "tests/audit/test_families.py",
    "tests/audit/test_faults_of_user_code.py",
    "tests/coordinates/test_diagnosis.py",
    "tests/kernels/test_rule.py",
    "tests/kernels/test_backward.py",
    "tests/audit/test_audit_engine.py",
    "tests/kernels/test_fused_model.py",
    "tests/audit/test_planted_faults.py",
    "tests/faults/test_ends.py",
    "tests/sweep/test_sweeps_in_s3.py",
    "tests/sweep/test_ray.py",
    "tests/cli/test_looks.py",
    "tests/sweep/test_real_ray.py",
    "tests/faults/test_disk.py",
    "tests/sweep/test_slurm.py",
    "tests/audit/test_lr_sweep_of_file.py",
    "tests/learning_rates/test_drift.py",
    "tests/gate/test_difference.py",
    "tests/plots/test_formats.py",
    "tests/cli/test_answers.py",
    "tests/audit/test_audit_command.py",
    "tests/cli/test_judge_command.py",
    "tests/gate/test_check.py",
    "tests/cli/test_help.py",
    "tests/gate/test_pytest_plugin.py",
    "tests/sweep/test_shared_checkpoints.py",
    "tests/gate/test_difference_of_lrs.py",
    "tests/bench/test_step_bench.py",
)


def handed_out(nodeid: str) -> str:
    """Return what a test is handed out with: its file, or its folder where that goes together."""
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in TOGETHER else file


def longest_first(nodeids: Sequence[str]) -> list[int]:
    """Return the places of tests in the order to run them in."""
    ranks = {part: rank for rank, part in enumerate(LONGEST)}
    return sorted(range(len(nodeids)), key=lambda i: ranks.get(handed_out(nodeids[i]), len(ranks)))


class LongestFirst(LoadFileScheduling):
    """xdist's `--dist loadfile`, with the folders that go together, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False  # by how many tests a file has
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return handed_out(nodeid)
