"""A training step measured on a CPU: replicas, one run, and a plain loop; right or no time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mupcheck.bench import fla_model, step
from mupcheck.bench.plain_loop import plain_loop
from mupcheck.bench.rows import ALLOWED_NATS, Machine
from mupcheck.model.build import build_model
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.rows import StepRow

MACHINE = Machine(1e10, 1e11, 1e-6, "1024^3 float32")
TINY = replace(step.CPU, n_layers=1, batch_size=1, seq_len=16, bursts=2)


def measured(**options):
    rows = step.measure_steps(TINY, [16], ["chunk"], MACHINE, peers=False, seconds=0.001, **options)
    return {row.backend: row for row in rows}


def test_replicas_one_run_and_a_plain_loop():
    rows = measured()
    assert set(rows) == {"mupcheck chunk, R=4", "mupcheck chunk, R=1", "mupcheck chunk, plain eager loop"}
    for row in rows.values():
        assert row.refused is None and row.error < 1e-4
        assert row.times["step"].median == pytest.approx(row.facts["R"] * row.times["a run"].median)
        assert row.shares["a run"] > 0 and row.facts["tokens"] == 16


def test_losses_that_differ_from_float64_get_no_time(monkeypatch):
    right = step.train

    def off(runs, corpus, *, device):
        for row in right(runs, corpus, device=device):
            yield replace(row, loss=[loss + 0.01 * (runs[0].dtype == "float32") for loss in row.loss])

    monkeypatch.setattr(step, "train", off)
    rows = measured()
    assert rows["mupcheck chunk"].refused.startswith("disagrees with float64: loss 0 by 1.0e-02")
    assert rows["mupcheck chunk"].times == {} and len(rows) == 2
    assert rows["mupcheck chunk, plain eager loop"].times


def test_bfloat16_is_held_to_steps_in_float32_too(monkeypatch):
    right = step.train

    def off(runs, corpus, *, device):
        for index, row in enumerate(right(runs, corpus, device=device)):
            if runs[0].dtype == dtype and index == wrong_step:
                norms = [norm * (1 + by) for norm in row.grad_norm]
                row = replace(row, loss=[loss + by for loss in row.loss], grad_norm=norms)
            yield row

    def refused():
        setting = replace(TINY, dtype="bfloat16")
        row, *_ = step.measure_steps(setting, [16], ["chunk"], MACHINE, peers=False, seconds=0.001)
        return row.refused

    monkeypatch.setattr(step, "train", off)
    dtype, wrong_step, by = "bfloat16", 3, 0.0
    assert refused() is None
    by = 0.1
    assert refused().startswith("disagrees with float64: loss 3 by ")
    dtype, wrong_step, by = "float32", 3, 0.002
    assert refused().startswith("in float32 disagrees with float64: loss 3 by 2.0e-03 (> 0.001)")
    # a wrong gradient is seen before it has moved a loss
    dtype, wrong_step, by = "float32", 0, 0.0009
    monkeypatch.setitem(step.ALLOWED_NORM, "float32", 1e-4)
    assert refused() == "in float32 disagrees with float64: gradient norm by 9.0e-04 (> 0.0001)"


def test_fewer_replicas_where_memory_runs_out(monkeypatch):
    right = step.train

    def small(runs, corpus, *, device):
        if len(runs) > 1:
            raise torch.OutOfMemoryError("no room")
        yield from right(runs, corpus, device=device)

    monkeypatch.setattr(step, "train", small)
    row, *_ = step.measure_steps(TINY, [16], ["chunk"], MACHINE, peers=False, seconds=0.001)
    assert row.backend == "mupcheck chunk, R=1" and row.times
    monkeypatch.setattr(step, "train", lambda runs, corpus, *, device: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    row, *_ = step.measure_steps(TINY, [16], ["chunk"], MACHINE, peers=False, seconds=0.001)
    assert row.refused and not row.times


def test_heads_stay_within_what_kernels_take():
    assert [step.head_of(width) for width in (256, 1536, 2048, 4096)] == [
        *((6, 32, 64), (6, 192, 384), (6, 256, 512), (12, 256, 512)),
    ]


def test_bursts_are_told_apart(monkeypatch):
    # the first three steps, which compile, take 30 s; after that a burst of three takes 6 s
    clock = iter([10.0, 20.0, 30.0, 30.0, 30.0, 36.0, 36.0, 36.0, 42.0])
    monkeypatch.setattr(step.time, "perf_counter", lambda: next(clock))
    row = StepRow(0, [1.0], [1.0], [1.0], [False], [None])
    monkeypatch.setattr(step, "train", lambda runs, corpus, *, device: iter([row] * 9))
    assert step._bursts([], None, replace(TINY, burst=3)) == [2.0, 2.0]


def test_a_plain_loop_trains_as_ours_does():
    runs = step.runs_of(TINY, 16, "chunk", n=1, steps=3)
    corpus = open_corpus("synthetic", vocab_size=256)
    ours = step._first_steps(runs, corpus, "cpu")
    loop = step._own_loop(runs, corpus=corpus, device="cpu")
    found = loop.first_steps([step._batch(runs[0], corpus, i) for i in range(3)])
    assert found.losses == pytest.approx(ours.losses, abs=1e-5)
    assert found.norm == pytest.approx(ours.norm, rel=1e-5)
    unclipped = replace(loop, spec=runs[0].model_copy(update={"clip": 0.0}))
    batch = step._batch(runs[0], corpus, 3)
    again = [step._batch(runs[0], corpus, 4)]
    assert unclipped.first_steps([batch, *again]).losses[1] != loop.first_steps([batch, *again]).losses[1]


class Layer(nn.Module):
    """Parameters of FLA's GatedDeltaNet layer, by its names and shapes (0.6.0); it computes nothing."""

    def __init__(self, hidden_size, expand_v, head_dim, num_heads, conv_size, layer_idx, norm_eps):
        super().__init__()
        key, value = num_heads * head_dim, num_heads * head_dim * expand_v
        for name, size in (("q", key), ("k", key), ("v", value)):
            self.add_module(f"{name}_proj", nn.Linear(hidden_size, size, bias=False))
            self.add_module(f"{name}_conv1d", nn.Conv1d(size, size, conv_size, groups=size, bias=False))
        self.g_proj = nn.Linear(hidden_size, value, bias=False)
        self.a_proj, self.b_proj = (nn.Linear(hidden_size, num_heads, bias=False) for _ in range(2))
        self.A_log, self.dt_bias = nn.Parameter(torch.zeros(num_heads)), nn.Parameter(torch.zeros(num_heads))
        self.o_norm = nn.RMSNorm(head_dim * expand_v)
        self.o_proj = nn.Linear(value, hidden_size, bias=False)


class GatedMLP(nn.Module):
    def __init__(self, width, intermediate_size):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, intermediate_size, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(intermediate_size, width, bias=False)


@pytest.fixture
def fla(monkeypatch):
    """Stand in for FLA's modules."""
    parts = {"GatedDeltaNet": Layer, "GatedMLP": GatedMLP, "RMSNorm": nn.RMSNorm}
    monkeypatch.setattr(fla_model, "import_module", lambda name: type("module", (), parts))


@pytest.mark.usefixtures("fla")
def test_an_fla_model_takes_our_weights():
    (run,) = step.runs_of(TINY, 16, "chunk", n=1)
    ours, theirs = build_model(run), fla_model.fla_model(run, "cpu")
    fla_model.copy_weights(theirs, ours)
    mixer = ours.blocks[0].mixer
    assert torch.equal(theirs[1].mixer.q_proj.weight, mixer.q_proj.weight[0].T)
    x = torch.randn(1, 12, 5)
    conv = torch.nn.functional.conv1d(nn.functional.pad(x, (3, 0)), theirs[1].mixer.q_conv1d.weight, groups=12)
    assert torch.allclose(conv[0].T, mixer.q_conv1d(x[0].T[None, None])[0, 0], atol=1e-6), "the same taps"
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    theirs.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="extra"):
        fla_model.copy_weights(theirs, ours)


def test_the_plain_loop_takes_logits_of_either_shape():
    (run,) = step.runs_of(TINY, 16, "chunk", n=1)
    table = nn.Embedding(256, 256)
    batch = np.arange(17)[None]
    flat = plain_loop(table, lambda tokens: table(tokens).flatten(0, 1), run, batch, "cpu")
    deep = plain_loop(table, table, run, batch, "cpu")
    lr_of_zero = flat.optimizer.param_groups[0]
    lr_of_zero["lr"] = 0.0
    assert [float(x) for x in flat.step()] == [float(x) for x in deep.step()]


def test_float32_is_right_where_float64_has_no_room(monkeypatch):
    right = step.train

    def small(runs, corpus, *, device):
        if runs[0].dtype == "float64":
            raise torch.OutOfMemoryError("no room")
        yield from right(runs, corpus, device=device)

    assert step._right(TINY, 16, open_corpus("synthetic", vocab_size=256))[1] == "float64"
    monkeypatch.setattr(step, "train", small)
    rows = measured()
    assert {row.facts["compared with"] for row in rows.values()} == {"float32"}
    assert all(row.times for row in rows.values())


def test_the_first_steps_move_the_loss_by_more_than_is_allowed():
    # or a step that updates nothing would agree
    (run,) = step.runs_of(replace(TINY, seq_len=64), 64, "chunk", n=1, steps=step.CHECKED_STEPS)
    losses = [row.loss[0] for row in step.train([run], open_corpus("synthetic", vocab_size=256))]
    assert max(abs(loss - losses[0]) for loss in losses) > 2 * ALLOWED_NATS["bfloat16"]
