"""What a run costs by its shape: counted as the model is, and near what was measured."""

import json
import subprocess
import sys
import time
from collections import deque

import pytest
import torch
from tiny_sweeps import tiny, tiny_coord

from mupcheck.measuring import probes
from mupcheck.model.build import build_model
from mupcheck.ops import chunk
from mupcheck.sweep import cost
from mupcheck.sweep.machine import matrix_flops
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.train import one_thread, train


def runs_of(sweep):
    return sweep.runs(vocab_size=sweep.vocab_size, data_hash="")


# --- counted ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
@pytest.mark.parametrize("tied", [False, True])
def test_values_are_counted_as_the_model_has_them(make_run, mode, tied):
    shape = {"n_layers": 3, "mlp_ratio": 3, "conv_size": 5, "vocab_size": 100, "head_k_dim": 8, "head_v_dim": 12}
    run = make_run(width=32, base_width=16, mode=mode, tied=tied, **shape)
    model = build_model([run], "meta")
    sizes = cost.sizes(run)
    assert cost.count_parameters(run) == sizes.values == sum(weight[0].numel() for weight in model.parameters())
    assert sizes.largest == max(weight[0].numel() for weight in model.parameters())


def test_what_is_stated_twice_is_the_same():
    # cost.py imports no torch, so that an absurd size is refused at once
    assert cost.SMALL_MATRIX == probes.SMALL_MATRIX
    for time_ in (1, 63, 64, 65, 100, 512):
        n_chunks = 1 if time_ <= cost.LONGEST_SINGLE_CHUNK else -(-time_ // cost.CHUNK)
        assert chunk.chunking(time_)[0] == n_chunks
    code = "import sys, mupcheck.sweep.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_coordinate_check_ends_at_its_last_recorded_step_and_an_evaluation_is_a_third_of_a_step(make_run):
    long = make_run(kind="coord", probes="full", record=(0, 1, 3), steps=1000)
    assert cost.n_steps(long) == 4
    assert cost.run_flops(long, held_out=0) == 4 * cost.step_flops(long)
    plain = make_run(steps=10)
    assert cost.run_flops(plain, held_out=10**6) == 10 * cost.step_flops(plain)
    # 2 x 16 tokens a step: 320 are 10 steps' tokens, at the end, or every 4 steps and at the end
    once, often = (make_run(steps=10, eval_tokens=320, eval_every=every) for every in (0, 4))
    assert (cost.n_evaluations(once), cost.n_evaluations(often)) == (1, 3)
    assert cost.run_flops(once, held_out=10**6) == pytest.approx((10 + 10 / 3) * cost.step_flops(once))
    assert cost.run_flops(often, held_out=32) == pytest.approx((10 + 3 / 3) * cost.step_flops(often))
    work = [cost.group_work(run, 4, held_out=10**6) for run in (plain, once, often)]
    assert work == sorted(work)
    assert cost.group_work(long.model_copy(update={"probes": "none"}), 4) < cost.group_work(long, 4)


def test_memory_grows_with_everything_it_is_made_of(make_run):
    plain = cost.group_bytes(make_run(), 4)
    more = {"width": 32, "batch_size": 20, "seq_len": 160, "n_layers": 2, "vocab_size": 3000, "dtype": "float64"}
    more |= {"backend": "reference", "steps": 10**5}
    for name, value in more.items():
        assert cost.group_bytes(make_run(**{name: value}), 4) > 1.01 * plain, name
    assert cost.group_bytes(make_run(optimizer="sgd"), 4) < plain < cost.group_bytes(make_run(), 5)
    recorded = make_run(kind="coord", probes="full", record=(0, 1, 3))
    assert cost.group_bytes(recorded, 4) > 1.01 * plain
    large = make_run(batch_size=64, seq_len=64)
    parts = make_run(batch_size=64, seq_len=64, accumulation=8)
    assert cost.group_memory(parts, 1).activations == pytest.approx(
        cost.group_memory(large, 1).activations / 8, rel=1e-3
    )


# --- measured ---------------------------------------------------------------------------------------------------------

MEASURE = """
import sys, json
from mupcheck.spec.run import RunSpec
from mupcheck.theory.rules_file import find_table
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.train import one_thread, train
import torch
torch.randn(64, 64) @ torch.randn(64, 64)
corpus = open_corpus("synthetic")
# not getrusage, whose peak is handed down from the process that started this one
kib = lambda name: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
before, grown = kib("VmRSS"), []
for group in json.loads(sys.argv[1]):
    runs = [RunSpec(**run, table=find_table("gdn-mup")) for run in group]
    with one_thread():
        for _ in train(runs, corpus):
            pass
    grown.append(1024 * (kib("VmHWM") - before))
print(json.dumps(grown))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="calibrated on Linux")
def test_the_estimate_of_memory_is_near_what_is_measured(make_run):
    # weights first, then activations; what a process has had it keeps, so the second is the larger one
    shape = {"base_width": 64, "steps": 3, "data": "synthetic", "vocab_size": 256, "n_layers": 2}
    recorded = {"kind": "coord", "probes": "full", "record": (0, 1, 2), "batch_size": 1}
    groups = [
        [make_run(width=128, seed=seed, **shape, **recorded) for seed in range(4)],
        [make_run(width=64, seed=seed, batch_size=8, seq_len=256, **shape) for seed in range(4)],
    ]
    as_json = json.dumps([[json.loads(run.model_dump_json(exclude={"table"})) for run in group] for group in groups])
    # JSON has no tuples, and specs are strict
    code = MEASURE.replace("RunSpec(**run,", "RunSpec(**run | {'record': tuple(run['record'])},")
    answer = subprocess.run([sys.executable, "-c", code, as_json], capture_output=True, text=True, check=True)
    for group, measured in zip(groups, json.loads(answer.stdout), strict=True):
        estimated = cost.group_bytes(group[0], len(group))
        assert 0.8 < estimated / measured < 1.5, (group[0].width, estimated, measured)


@pytest.mark.parametrize(
    "sweep",
    [
        tiny_coord(widths=(64,), seeds=4, vocab_size=256, record=(0, 1, 2, 3)),
        tiny(widths=(64,), lrs=(2.0**-8,), seeds=4, steps=10, batch_size=8, seq_len=48, eval_tokens=4096),
    ],
    ids=["coord", "lr"],
)
def test_the_estimate_of_time_is_near_what_is_measured(sweep):
    runs = runs_of(sweep)
    corpus = open_corpus("synthetic", vocab_size=sweep.vocab_size)
    taken = []
    with one_thread():
        for _ in range(3):  # the first has more to set up, and what other threads of this process do adds to any
            start = time.thread_time()
            deque(train(runs, corpus), maxlen=0)
            taken.append(time.thread_time() - start)
    measured = min(taken)
    estimated = cost.group_work(runs[0], len(runs), held_out=len(corpus.held_out)) / matrix_flops("cpu")
    assert 1 / 2.5 < estimated / measured < 2.5  # 2, and what other work on a machine adds
    assert torch.get_num_threads() == 1
