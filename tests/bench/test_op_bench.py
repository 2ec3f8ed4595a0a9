"""The op measured on a CPU: a backend that is right is timed, one that is wrong is not."""

import pytest
import torch

from mupcheck.bench import op
from mupcheck.bench.peers import Peer, op_peers
from mupcheck.bench.rows import Machine, Row, disagreement
from mupcheck.ops import gated_delta_rule

MACHINE = Machine(1e10, 1e11, 1e-6, "1024^3 float32")
CASE = op.Case(3, 70, 8, 16, "cpu", torch.float32, heads=2)


def measured(*peers: Peer, case: op.Case = CASE) -> dict[str, Row]:
    return {row.backend: row for row in op.measure_ops([case], ["chunk"], peers, MACHINE, seconds=0.001)}


def chunk(*tensors):
    return gated_delta_rule(*tensors, backend="chunk")[0]


def test_a_right_backend_is_timed_both_ways():
    row = measured()["chunk"]
    assert row.refused is None and row.own
    assert set(row.errors) == set(op.OUTPUTS)
    assert 0 < row.error < 1e-5
    assert row.times["both"].median > row.times["forward"].median > 0
    assert row.facts == {"T": 70, "B": 3, "H": 2, "dtype": "float32", "tokens": 210}
    assert set(row.shares) == {"forward", "both"}


class Wrong(torch.autograd.Function):
    """The identity with a gradient that is off by a percent."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.01 * grad


WRONG = {
    "output": lambda *tensors: 1.001 * chunk(*tensors),
    "gradient of k": lambda q, k, *rest: chunk(q, Wrong.apply(k), *rest),
    "gradient of log_alpha": lambda q, k, v, log_alpha, beta: chunk(q, k, v, Wrong.apply(log_alpha), beta),
    "last sequence": lambda *tensors: chunk(*tensors) * torch.tensor([1.0, 1.0, 1.01]).view(3, 1, 1, 1),
    "not a number": lambda *tensors: chunk(*tensors) * torch.nan,
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_no_time(name):
    row = measured(Peer("peer", WRONG[name]))["peer"]
    assert row.refused.startswith("disagrees with float64")
    assert row.times == {} and row.shares == {}


def test_a_peer_that_breaks_is_named_and_the_others_are_measured():
    def broken(*tensors):
        raise RuntimeError("no kernel\n image for this device")

    rows = measured(Peer("broken", broken), Peer("right", chunk))
    assert rows["broken"].refused == "no kernel image for this device"
    assert rows["right"].times and rows["chunk"].times


def test_a_peer_is_asked_for_what_it_serves():
    only = Peer("only 128", chunk, shapes=((128, 128),))
    assert "only 128" not in measured(only)
    assert only.serves(op.Case(1, 1, 128, 128, "cpu", torch.float32))


def test_what_is_right_is_the_recurrence(monkeypatch):
    inputs = op.draw(CASE)
    recurrence = op.both_ways(lambda *tensors: gated_delta_rule(*tensors, backend="reference")[0], op.draw(CASE))
    assert max(op.errors_of(recurrence, op.right_answer(inputs)).values()) < 1e-5
    # a chunk form that is off in float64 is not taken for right
    right = op.gated_delta_rule

    def off(*tensors, backend, **options):
        output, state = right(*tensors, backend=backend, **options)
        return (output * (1 + 1e-8) if backend == "chunk" else output), state

    monkeypatch.setattr(op, "gated_delta_rule", off)
    with pytest.raises(ValueError, match="is not the recurrence"):
        op.right_answer(inputs)
    row = measured()["float64"]
    assert row.own and "is not the recurrence" in row.refused


def test_everybody_gets_the_same_inputs():
    first, second = op.draw(CASE), op.draw(CASE)
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))
    q, k, _, log_alpha, beta = first.tensors
    assert torch.allclose(q.norm(dim=-1), torch.ones(3, 70, 2)) and torch.allclose(k.norm(dim=-1), torch.ones(3, 70, 2))
    assert (log_alpha < 0).all() and ((beta > 0) & (beta < 1)).all()


def test_an_error_at_the_limit_agrees_and_nan_does_not():
    assert disagreement({"o": 1e-2}, 1e-2) is None
    assert "dq by 2.0e-02" in disagreement({"o": 1e-3, "dq": 2e-2}, 1e-2)
    assert disagreement({"o": float("nan")}, 1e-2)


def test_fla_s_plain_form_is_a_peer_where_it_is_installed():
    for peer in op_peers("cpu"):
        row = measured(peer)[peer.name]
        assert row.times, row.refused


def test_a_device_that_fails_ends_a_suite_and_keeps_what_there_was(monkeypatch):
    from mupcheck.bench import run

    def broken(*_, **__):
        yield Row("op", "K=1 V=1", "chunk", True, times={})
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    seen = []
    monkeypatch.setitem(run._SUITES, "op", broken)
    monkeypatch.setattr(run, "ceilings", lambda kind, seconds: MACHINE)
    bench = run.run_bench(["op"], "cpu", follow=lambda bench: seen.append(len(bench.rows)))
    assert [row.backend for row in bench.rows] == ["chunk", "stopped"] and seen == [1, 2]
    assert "illegal memory access" in bench.rows[1].refused
    assert bench.wrong == bench.rows[1:]


@pytest.mark.gpu
def test_a_graph_counts_where_its_results_are_right(monkeypatch):
    case = op.Case(2, 130, 32, 64, "cuda", torch.bfloat16)
    assert {"forward in a graph", "both in a graph"} < set(measured(case=case)["chunk"].times)
    # as where a library launches on a stream of its own, which the graph does not have
    monkeypatch.setattr(op, "in_graph", lambda call: (lambda: None, call()))
    assert set(measured(case=case)["chunk"].times) == {"forward", "both"}
