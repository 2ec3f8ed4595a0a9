"""The gated delta rule alone: backends and peers on the same inputs, right first, then timed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mupcheck.bench import floors
from mupcheck.bench.peers import Peer
from mupcheck.bench.rows import ALLOWED_ERROR, Machine, Row, disagreement, short
from mupcheck.bench.timing import Call, in_graph, peak_bytes, take_turns
from mupcheck.ops import gated_delta_rule

# (K, V) of the paper's widths 256 to 1536, and the one that other libraries serve best
PAPER_SHAPES = ((32, 64), (48, 96), (64, 128), (96, 192), (128, 256), (192, 384))
GPU_SHAPES, CPU_SHAPES = (*PAPER_SHAPES, (128, 128)), ((32, 64),)
HEADS = 6
# sequences and their length
GPU_BATCH, CPU_BATCH = (32, 1024), (2, 1024)
# where it is seen how time grows with length
SCALED_SHAPES = ((32, 64), (96, 192))
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
FIRST_STEPS = 130  # of time that the recurrence computes: several chunks, and a part of one
OUTPUTS = ("o", "dq", "dk", "dv", "dlog_alpha", "dbeta")

Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One shape on one device."""

    batch: int
    time: int
    key_dim: int
    value_dim: int
    device: str
    dtype: torch.dtype
    heads: int = HEADS

    @property
    def name(self) -> str:
        """Return what the case is called: its head, and its sequences."""
        return f"K={self.key_dim} V={self.value_dim}, {self.batch} x {self.time}"

    @property
    def units(self) -> int:
        """Return tokens times heads, what work is counted by."""
        return self.batch * self.time * self.heads


@dataclass(frozen=True)
class Inputs:
    """q, k, v, log_alpha and beta, each with requires_grad, and the gradient of the output."""

    tensors: tuple[Tensor, ...]
    d_output: Tensor


def draw(case: Case) -> Inputs:
    """Return the inputs of a case, the same for all: q and k normalised, decay and write strength as in a model."""
    generator = torch.Generator(case.device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(case.batch, case.time, case.heads, *size, generator=generator, device=case.device)

    q, k = (F.normalize(normal(case.key_dim), dim=-1).to(case.dtype) for _ in range(2))
    v, d_output = (normal(case.value_dim).to(case.dtype) for _ in range(2))
    log_alpha, beta = -0.1 * F.softplus(normal()), normal().sigmoid()
    return Inputs(tuple(x.requires_grad_() for x in (q, k, v, log_alpha, beta)), d_output)


def measure_ops(
    cases: Sequence[Case],
    backends: Sequence[str],
    peers: Sequence[Peer],
    machine: Machine,
    *,
    seconds: float,
) -> Iterator[Row]:
    """Measure every backend and peer in every case and yield their rows."""
    for case in cases:
        forwards: dict[str, tuple[bool, Forward]] = {name: (True, partial(_own, name)) for name in backends}
        forwards |= {peer.name: (False, peer.op) for peer in peers if peer.op and peer.serves(case)}
        yield from _measure(case, forwards, machine, seconds)
        if case.device != "cpu":
            torch.cuda.empty_cache()


def _own(backend: str, *tensors: Tensor) -> Tensor:
    return gated_delta_rule(*tensors, backend=backend, final_state=False)[0]


def both_ways(forward: Forward, inputs: Inputs) -> list[Tensor]:
    """Return the output and the gradients of all inputs."""
    output = forward(*inputs.tensors)
    return [output, *torch.autograd.grad(output, inputs.tensors, inputs.d_output)]


def right_answer(inputs: Inputs) -> list[Tensor]:
    """Return output and gradients of the first and the last sequence in float64.

    The chunk form computes them, once it agrees in float64 with the recurrence itself over the first steps; the whole
    recurrence would take long, and keep a state of every step.

    Raises:
        ValueError: if the two do not agree.
    """
    ends = [0, -1]
    wide = Inputs(tuple(x[ends].detach().double() for x in inputs.tensors), inputs.d_output[ends].double())
    few = Inputs(tuple(x[:, :FIRST_STEPS] for x in wide.tensors), wide.d_output[:, :FIRST_STEPS])
    chunk, recurrence = (both_ways(partial(_own, name), _differentiable(few)) for name in ("chunk", "reference"))
    if why := disagreement(_errors(chunk, recurrence), 1e-10):
        raise ValueError(f"the chunk form in float64 is not the recurrence, {why}")
    return [x.detach() for x in both_ways(partial(_own, "chunk"), _differentiable(wide))]


def errors_of(got: Sequence[Tensor], right: Sequence[Tensor]) -> dict[str, float]:
    """Return |got - right| / |right| of the output and each gradient, over the first and the last sequence."""
    return _errors([x[[0, -1]].double() for x in got], right)


def _errors(got: Sequence[Tensor], right: Sequence[Tensor]) -> dict[str, float]:
    return {
        name: float((a.detach() - b.detach()).norm() / b.detach().norm())
        for name, a, b in zip(OUTPUTS[: len(right)], got, right, strict=True)
    }


def _differentiable(inputs: Inputs) -> Inputs:
    return Inputs(tuple(x.clone().requires_grad_() for x in inputs.tensors), inputs.d_output)


def _measure(case: Case, forwards: dict[str, tuple[bool, Forward]], machine: Machine, seconds: float) -> Iterator[Row]:
    inputs = draw(case)
    facts = {
        "T": case.time,
        "B": case.batch,
        "H": case.heads,
        "dtype": _name(case.dtype),
        "tokens": case.batch * case.time,
    }
    try:
        right = right_answer(inputs)
    except (ValueError, RuntimeError) as error:
        yield Row("op", case.name, "float64", True, refused=short(error), facts=facts)
        return
    rows: dict[str, Row] = {}
    calls: dict[tuple[str, str], Call] = {}
    for name, (own, forward) in forwards.items():
        errors, peak = {}, None
        try:
            errors = errors_of(both_ways(forward, inputs), right)
            refused = disagreement(errors, ALLOWED_ERROR[_name(case.dtype)])
            if refused is None:
                peak = peak_bytes(partial(both_ways, forward, inputs), case.device)
                for what, call in _ways(forward, inputs, right, case).items():
                    calls[name, what] = call
        except Exception as error:  # a peer may fail in any way, and the others are still worth measuring
            refused = short(error)
        rows[name] = Row("op", case.name, name, own, errors, refused, peak_bytes=peak, facts=facts)
    found = take_turns({" ".join(key): call for key, call in calls.items()}, case.device, seconds=seconds)
    for name, row in rows.items():
        times = {what: found[f"{name} {what}"] for owner, what in calls if owner == name and row.refused is None}
        shares = {what: _floor(case, what, machine) / timing.median for what, timing in times.items()}
        yield Row(**{**row.__dict__, "times": times, "shares": shares})


def _ways(forward: Forward, inputs: Inputs, right: Sequence[Tensor], case: Case) -> dict[str, Call]:
    """Return what is timed: forward, and with backward; on a GPU each in a CUDA graph as well, where that can be.

    A call from the host takes at least as long as its host; the graph says what the device takes. It counts only where
    its results are right too: what a library launches on a stream of its own would not be part of it.
    """

    def output() -> list[Tensor]:
        return [forward(*inputs.tensors)]

    ways: dict[str, Call] = {"forward": output, "both": partial(both_ways, forward, inputs)}
    if case.device == "cpu":
        return ways
    for name, call in (("forward", output), ("both", partial(both_ways, forward, inputs))):
        try:
            replay, results = in_graph(partial(_detached, call))
            for each in results:
                each.zero_()
            replay()
            errors = _errors([x[[0, -1]].double() for x in results], right[: len(results)])
        except Exception:  # what a peer does on the host cannot always be captured
            torch.cuda.synchronize()
            continue
        if disagreement(errors, ALLOWED_ERROR[_name(case.dtype)]) is None:
            ways[f"{name} in a graph"] = replay
    return ways


def _detached(call: Callable[[], list[Tensor]]) -> list[Tensor]:
    return [x.detach() for x in call()]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _floor(case: Case, what: str, machine: Machine) -> float:
    """Return the least seconds of what was timed, by the ceilings of this machine."""
    item = torch.finfo(case.dtype).bits // 8
    head = case.key_dim, case.value_dim
    flops, n_bytes = floors.both(*head, item)
    if what.startswith("forward"):
        flops, n_bytes = floors.forward_flops(*head), floors.forward_bytes(*head, item)
    rates = {"flops_per_second": machine.flops_per_second, "bytes_per_second": machine.bytes_per_second}
    return floors.least_seconds(case.units * flops, case.units * n_bytes, **rates)
