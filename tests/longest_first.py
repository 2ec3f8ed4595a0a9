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
    "tests/readme",
    "tests/coordinates/test_training_shown.py",
    "tests/audit/test_families.py",
    "tests/sweep/test_slurm.py",
    "tests/bench/test_step_bench.py",
    "tests/faults/test_disk.py",
    "tests/sweep/test_real_slurm.py",
    "tests/coordinates/test_values.py",
    "tests/kernels/test_rule.py",
    "tests/sweep/test_real_ray.py",
    "tests/audit/test_planted_faults.py",
    "tests/faults/test_ends.py",
    "tests/audit/test_lr_sweep_of_file.py",
    "tests/measuring/test_planted_steps.py",
    "tests/cli/test_help.py",
    "tests/coordinates/test_diagnosis_where.py",
    "tests/sweep/test_shared_checkpoints.py",
    "tests/terminal/test_streams.py",
    "tests/audit/test_audit_engine.py",
    "tests/gate/test_pytest_plugin.py",
    "tests/sweep/test_sweeps_in_s3.py",
    "tests/audit/test_faults_of_user_code.py",
    "tests/sweep/test_ray.py",
    "tests/cli/test_answers.py",
    "tests/cli/test_looks.py",
    "tests/kernels/test_fused_model.py",
    "tests/proof/test_identities.py",
    "tests/sweep/test_faults.py",
    "tests/coordinates/test_diagnosis.py",
    "tests/terminal/test_check_page.py",
    "tests/gate/test_check.py",
    "tests/sweep/test_left_and_gone_on.py",
    "tests/cli/test_judge_command.py",
    "tests/kernels/test_backward.py",
    "tests/sweep/test_teams.py",
    "tests/plots/test_formats.py",
    "tests/audit/test_audit_command.py",
    "tests/sweep/test_drivers.py",
    "tests/cli/test_diff_command.py",
    "tests/gate/test_difference.py",
    "tests/test_public.py",
    "tests/measuring/test_sharded_sizes.py",
    "tests/gate/test_difference_of_lrs.py",
    "tests/sweep/test_gpus.py",
    "tests/terminal/test_unfit_baseline.py",
    "tests/test_floors.py",
    "tests/coordinates/test_widths.py",
    "tests/plots/test_paper.py",
    "tests/learning_rates/test_drift.py",
    "tests/coordinates/test_judge.py",
    "tests/audit/test_correct_setups.py",
    "tests/theory/test_decay.py",
    "tests/coordinates/test_copies.py",
    "tests/sweep/test_runner.py",
    "tests/plots/test_paper_legible.py",
    "tests/theory/test_implied_measured.py",
    "tests/cli/test_gpus_per_run.py",
    "tests/report/test_since.py",
    "tests/report/test_page.py",
    "tests/report/test_browser.py",
    "tests/coordinates/test_applied.py",
    "tests/sweep/test_precision_of_sweep.py",
    "tests/sweep/test_path_of_sweep.py",
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
