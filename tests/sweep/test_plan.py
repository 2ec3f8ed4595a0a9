"""Groups, bounds, and what fits."""

from collections import Counter
from dataclasses import replace

import pytest
from tiny_sweeps import tiny, tiny_coord

from mupcheck.sweep import plan as plan_file
from mupcheck.sweep.cost import group_bytes
from mupcheck.sweep.groups import CPU_REPLICAS, group_runs
from mupcheck.sweep.plan import check_fits, extend, plan_sweep
from mupcheck.sweep.rounds import rounds
from mupcheck.sweep.runner import run_sweep

GIB = 2**30


@pytest.fixture
def plan_within(tmp_path, monkeypatch):
    """Return a function that plans a sweep on a machine with so much memory."""

    def plan(sweep, n_bytes, **options):
        monkeypatch.setattr(plan_file, "available_memory", lambda _: n_bytes)
        return plan_sweep(sweep, out=tmp_path, **options)

    return plan


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_share_a_shape_and_come_costliest_first():
    sweep = tiny(widths=(16, 64, 32), lrs=tuple(2.0**-i for i in range(10)), seeds=2)
    runs = sweep.runs(vocab_size=32, data_hash="")
    groups = group_runs(runs, "cpu")
    assert Counter(run.run_id for group in groups for run in group) == Counter(run.run_id for run in runs)
    assert all(len({run.group for run in group}) == 1 for group in groups)
    assert [group[0].width for group in groups] == sorted((group[0].width for group in groups), reverse=True)
    sizes = {len(group) for group in groups}
    assert max(sizes) <= CPU_REPLICAS
    assert max(sizes) - min(sizes) <= 1  # 40 runs of a width: 14, 13 and 13, rather than 16, 16 and 8
    narrow = [run for run in runs if run.width == 16]
    assert [len(group) for group in group_runs(narrow[: 2 * CPU_REPLICAS], "cpu")] == [CPU_REPLICAS] * 2


def test_groups_are_parted_where_they_would_not_fit_together(plan_within):
    sweep = tiny(widths=(128,), n_layers=2, seq_len=64, batch_size=8, seeds=4)  # 16 runs
    whole = plan_within(sweep, None, jobs=1)
    assert [len(group) for group in whole.groups] == [16]
    one, two, all_of_them = (group_bytes(whole.runs[0], n) for n in (1, 2, 16))
    assert 0.5 < (all_of_them - one) / (15 * (two - one)) < 2  # linear, or replicas_within were wrong
    half = plan_within(sweep, whole.shared_bytes + (all_of_them + one) // 2, jobs=1)
    assert half.fits
    assert 1 < len(half.groups) < 6
    narrow = plan_within(sweep, whole.shared_bytes + one - 1, jobs=1)
    assert [len(group) for group in narrow.groups] == [1] * 16
    assert not narrow.fits


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_needed_at_once_is_that_of_a_group_in_each_process(plan_within):
    one, two = (plan_within(tiny(widths=(16, 32, 64)), 8 * GIB, jobs=jobs) for jobs in (1, 2))
    assert one.n_processes == 1
    assert two.n_processes == 2
    largest = [group_bytes(group[0], len(group)) for group in two.groups]
    data = two.corpus.train.nbytes + two.corpus.held_out.nbytes
    assert one.needed_bytes == one.shared_bytes + largest[0]
    # the corpus is here already, and goes to two processes
    assert two.needed_bytes == one.shared_bytes + largest[0] + largest[1] + 2 * data
    done = extend(one, one.runs, finished={run.run_id for run in one.runs})
    assert done.needed_bytes == 0
    assert done.fits


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widths": (65_536,)}, r"width 65536 does not fit: needs 1\.2 TiB of 23 GiB .*; try narrower --widths, fewer"),
        ({"widths": (10**9,)}, r"needs more than 1,024 PiB of 23 GiB free on this machine; try narrower --widths"),
        ({"mlp_ratio": 10**9}, "needs 25 TiB"),
        ({"conv_size": 10**9}, "try narrower --widths, fewer --layers, or --force"),
        ({"n_layers": 10**6}, "does not fit: .* fewer --layers, or --force to try anyway"),
        ({"steps": 10**9}, "try fewer --steps"),
        (
            {"batch_size": 800, "seq_len": 512, "widths": (512,), "eval_tokens": 0},
            "a smaller --batch-size or --seq-len",
        ),
        ({"widths": (10**6, 10**6 + 16), "base_width": 16}, "try narrower --widths, fewer --layers, --jobs 1, or"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(plan_within, tmp_path, changes, said):
    sweep = tiny(**{"widths": (16,), "lrs": (2.0**-8,), "parametrizations": ("sp",)} | changes)
    plan = plan_within(sweep, 23 * GIB, jobs=2)
    assert not plan.fits
    with pytest.raises(ValueError, match=said) as caught:
        check_fits(plan)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=said):
        run_sweep(sweep, out=tmp_path, device="cpu", jobs=2)
    assert list(tmp_path.iterdir()) == []


def test_on_a_gpu_its_own_memory_counts_and_each_process_brings_a_context(plan_within):
    sweep = tiny(widths=(256,), batch_size=64, seq_len=512, seeds=1, lrs=(2.0**-8,), eval_tokens=0)
    plan = replace(plan_within(sweep, 2**60, jobs=1), device="cuda:0", available_bytes=10**9)
    assert plan.shared_bytes == plan_file.CUDA_CONTEXT_BYTES
    with pytest.raises(
        ValueError, match=r"free on cuda:0; try a smaller --batch-size .*, --dtype bfloat16, or --force"
    ):
        check_fits(plan)


def test_what_fits_and_what_nobody_knows_is_not_refused(plan_within):
    for available in (23 * GIB, None):
        check_fits(plan_within(tiny(), available))


def test_force_tries_anyway(monkeypatch, tmp_path):
    monkeypatch.setattr(plan_file, "available_memory", lambda _: 2**20)
    sweep = tiny(widths=(16,), lrs=(2.0**-8,), parametrizations=("sp",))
    with pytest.raises(ValueError, match=r"needs 0\.\d\d GiB of 0\.00 GiB"):
        run_sweep(sweep, out=tmp_path, device="cpu", jobs=1)
    assert len(run_sweep(sweep, out=tmp_path, device="cpu", jobs=1, force=True).runs) == 1


def test_a_top_up_adds_no_width_that_does_not_fit(plan_within, monkeypatch):
    sweep = tiny_coord(top_up=True, budget=1000.0)
    plan = plan_within(sweep, 23 * GIB, jobs=1)
    wide = tiny_coord(widths=(2**20,), base_width=16).runs(vocab_size=32, data_hash=plan.corpus.hash)
    monkeypatch.setattr("mupcheck.sweep.rounds._topped_up", lambda _: iter([wide]))
    # the clock stands: what the first round took, however little, would predict years for a width of a million
    monkeypatch.setattr("mupcheck.sweep.rounds.time.monotonic", lambda: 0.0)
    assert list(rounds(plan)) == [plan]
    roomy = replace(plan, available_bytes=2**60)
    assert len(list(rounds(roomy))) == 2


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"widths": (16, 48), "head_k_dim": 10**9},
            "head_k_dim = 3,000,000,000 at width 48 is beyond 2,147,483,647, the",
        ),
        (
            {"steps": 2**30, "batch_size": 2**20, "seq_len": 2**20},
            r"1,073,741,824 x 1,048,576 x 1,048,576 is beyond 2\^63",
        ),
    ],
)
def test_sizes_that_results_do_not_hold_are_refused_before_the_data_is_opened(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        plan_sweep(tiny(data="text:/nonexistent", **changes), out=tmp_path)
    assert list(tmp_path.iterdir()) == []
