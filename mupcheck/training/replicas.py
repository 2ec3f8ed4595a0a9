"""One group on its device: a model with all that its steps read and write there, at addresses that stay."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mupcheck.measuring.probes import CoordRow, Probe
from mupcheck.model.build import build_model, parameter_groups
from mupcheck.model.gdn import DeltaRule
from mupcheck.model.layers import Multiplier, Weight
from mupcheck.model.lm import LanguageModel
from mupcheck.ops import fused
from mupcheck.spec.run import RunSpec
from mupcheck.training.capture import Captured
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.feed import HeldOut, open_feed
from mupcheck.training.divergence import ALIVE, DeviceWatch
from mupcheck.training.dtype import autocast
from mupcheck.training.joint import make_steps
from mupcheck.training.optim import AdamW, lr_scale, make_optimizer
from mupcheck.training.rows import evaluates
from mupcheck.training.state import MOMENTS, State, put_back, take

# Rows of numbers that wait on the device until the host reads them.
RING = 64
# A capture takes as long as a few calls that are not captured: so many have to be left.
LEAST_STEPS, LEAST_RECORDS, LEAST_EVALUATIONS = 8, 3, 6

_compiled: set[tuple] = set()


class Replicas:
    """Trains its replicas step by step; the host says what to do and reads the numbers of many steps at once.

    Args:
        runs: one per replica.
        corpus: the opened data of the runs.
        n_steps: passes through the model and back, one more than updates where the state after the last is recorded.
        device: "cpu" does the same without a graph.
        capture: record steps as CUDA graphs, where that is possible.
    """

    def __init__(
        self, runs: Sequence[RunSpec], corpus: Corpus, *, n_steps: int, device: torch.device, capture: bool
    ) -> None:
        spec = runs[0]
        self.runs, self.spec, self.n_steps, self.device = list(runs), spec, n_steps, device
        self.recorded = frozenset(spec.record)
        self.full = spec.probes == "full"
        # A full probe hooks weights, and what is hooked modules compute. All steps of a check shall be computed alike,
        # and kernels for the few that are not recorded take seconds to compile.
        self.check = self.full or spec.kind == "coord"
        self.modules = fused.switched_off if self.check else nullcontext
        # what a full probe measures makes the host wait
        self.capture = capture and device.type == "cuda" and not self.full
        self.model: LanguageModel = build_model(runs, device)
        self.optimizer = make_optimizer(parameter_groups(self.model, runs), runs)
        scales = torch.tensor([[lr_scale(run, step) for run in runs] for step in range(n_steps)], dtype=torch.float64)
        self.scales = scales.to(device)  # [n_steps, R]
        self.feed = open_feed(runs, corpus, n_steps=n_steps, device=device)
        self.held_out = HeldOut(spec, corpus, device) if spec.eval_tokens and n_steps >= spec.steps else None
        self.watch = DeviceWatch(len(runs), spec.vocab_size, device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.coords: dict[int, list[CoordRow]] = {}
        self._prepare(first=0)

    def state(self, step: int) -> State:
        """Return what the steps from `step` on read of those before, which were all taken."""
        return State(step, take(self.model, self.optimizer, self.probe) | self.watch.held())

    def go_on(self, state: State, living: Sequence[int]) -> None:
        """Stand where `state` was taken, with the replicas that were left then; it is called before any step."""
        if len(living) < len(self.runs):
            self.keep(living, state.step)
        else:
            self._prepare(state.step)
        put_back(state, self.model, self.optimizer, self.probe)
        self.watch.hold(state.tensors)
        self.step.fill_(state.step)
        self.feed.start_at(state.step)

    def _prepare(self, first: int) -> None:
        """Make what depends on how many replicas there are, and the graphs of the steps from `first` on."""
        spec, n = self.spec, len(self.runs)
        self.probe = None if spec.probes == "none" else Probe(self.model, full=self.full, runs=self.runs)
        self.update = make_steps(self.optimizer, spec.steps, slots=2, compiled=not self.check)
        self.ring = torch.zeros(RING, 4, n, dtype=torch.float64, device=self.device)
        self.sizes: Tensor | None = None
        self.size_keys: list[tuple[int, str, str, str]] = []
        self.total = torch.zeros(n, dtype=torch.float64, device=self.device)
        self.index = torch.zeros(1, dtype=torch.int64, device=self.device)
        pool = torch.cuda.graph_pool_handle() if self.capture else None
        records = sum(first <= step < spec.steps for step in spec.record) if self.probe else 0
        steps = min(self.n_steps, spec.steps) - first - records
        self.steps = {
            record: Captured(
                partial(self._train, record=record),
                calls=records if record else steps,
                least=LEAST_RECORDS if record else LEAST_STEPS,
                pool=pool,
                then=partial(self.update.point, int(record)),
            )
            for record in (False, True)
        }
        evaluations = sum(evaluates(spec, step) for step in range(first, self.n_steps))
        calls = evaluations * self.held_out.count if self.held_out else 0
        self.evaluation = Captured(self._evaluate, calls=calls, least=LEAST_EVALUATIONS, pool=pool)

    def advance(self, step: int) -> None:
        """Take step number `step`, which is the one the device has come to."""
        self.optimizer.steps_taken = step
        # changes are since step 0, asked for or not
        record = self.probe is not None and (step in self.recorded or (self.full and step == 0))
        if step >= self.spec.steps:
            self._release_graphs()
            self._train(record=record, update=False)
        else:
            self.steps[record]()

    def compile(self) -> None:
        """Compile the kernels of a step side by side, before the first one waits for each of them in turn."""
        shape = (self.device, len(self.runs), *self.spec.group)
        if shape in _compiled or self.check or not fused.enabled(self.model.embedding.weight):
            return
        _compiled.add(shape)
        from mupcheck.ops.kernels.ahead import compiled_ahead

        # the first call of a shape tests the delta rule's kernels by what they give, which has to be real
        heads, k_dim, v_dim = self.spec.heads
        dtype = torch.bfloat16 if self.spec.dtype == "bfloat16" else torch.float32
        q, v = (torch.zeros(1, 1, heads, size, dtype=dtype, device=self.device) for size in (k_dim, v_dim))
        gate = torch.zeros(1, 1, heads, device=self.device)
        next(module for module in self.model.modules() if isinstance(module, DeltaRule))(q, q, v, gate, gate)
        with compiled_ahead():
            tokens = self.feed.batch(self.step)
            self._gradients(tokens)
            if self.probe is not None and self.recorded:
                self.probe.start()
                self._gradients(tokens)
                self.probe.finish(self.optimizer, self.scales[0])
                self.probe.sizes.clear()
            if self.held_out is not None:
                self._evaluate()
        self.index.zero_()
        self.model.zero_grad(set_to_none=True)

    def _gradients(self, tokens: Tensor) -> Tensor:
        """Go through the model and back, and return the loss, float64 [R]; tokens [R, B, T + 1]."""
        spec, losses = self.spec, []
        for part in tokens.split(spec.batch_size // spec.accumulation, dim=1):
            with autocast(spec, self.device), self.modules():
                loss = self.model.loss(part)
            loss = loss / spec.accumulation if spec.accumulation > 1 else loss
            loss.backward(torch.ones_like(loss))  # of the sum over replicas
            losses.append(loss.detach().double())
        return sum(losses[1:], losses[0])

    def _train(self, *, record: bool, update: bool = True) -> None:
        """Take one step; nothing here depends on its number but through what the device holds."""
        probe = self.probe
        tokens = self.feed.batch(self.step)
        scale = self.scales.index_select(0, self.step)[0]
        if record and probe is not None:
            probe.start()
        self.model.zero_grad(set_to_none=True)
        loss = self._gradients(tokens)
        alive = self.watch.why == ALIVE
        if self.full and update and probe is not None:
            probe.before_update(alive)
        grad_norm = self.update.gradient_norm(int(record))
        if record and probe is not None:
            probe.finish(self.optimizer, scale)
            self._keep(probe)
        clipped = torch.zeros_like(alive)
        if update:
            clipped = self.update(self.step, scale, grad_norm, alive)
            if self.full and probe is not None:
                probe.after_update()
        self.update.note(self.watch, self.ring, self.step, loss, grad_norm, clipped)

    def _keep(self, probe: Probe) -> None:
        """Put what a probe measured into the ring of sizes, where the host need not wait for it; a full one waits."""
        if self.full:
            step = self.optimizer.steps_taken
            rows = probe.rows(step)
            self.coords[step] = rows if step in self.recorded else []
            return
        self.size_keys = list(probe.sizes)
        values = torch.stack(list(probe.sizes.values())).double()
        probe.sizes.clear()
        if self.sizes is None:
            self.sizes = values.new_zeros(RING, *values.shape)
        self.sizes.index_copy_(0, self.step % RING, values[None])

    def evaluate(self) -> list[float]:
        """Return the mean held-out loss of each replica in nats/token, over `eval_tokens` or all there are if fewer."""
        assert self.held_out is not None
        self.total.zero_()
        self.index.zero_()
        for _ in range(self.held_out.count):
            self.evaluation()
        means: list[float] = (self.total / self.held_out.count).tolist()
        return means

    @torch.no_grad()
    def _evaluate(self) -> None:
        assert self.held_out is not None
        batch = self.held_out.batch(self.index).expand(len(self.runs), -1, -1)
        with autocast(self.spec, self.device), self.modules():
            self.total += self.model.loss(batch)
        self.index += 1

    def read(self, first: int, stop: int) -> np.ndarray:
        """Return loss, gradient norm, clipped and why of steps first .. stop - 1, at most RING of them: [n, 4, R]."""
        slots = [step % RING for step in range(first, stop)]
        numbers: np.ndarray = self.ring.cpu().numpy()[slots]
        recorded = [step for step in range(first, stop) if step in self.recorded]
        if recorded and self.sizes is not None:
            sizes = self.sizes.cpu()
            for step in recorded:
                values = sizes[step % RING].tolist()
                rows = zip(self.size_keys, values, strict=True)
                self.coords[step] = [CoordRow(step, *key, row) for key, row in rows]
        return numbers

    def keep(self, living: Sequence[int], first: int) -> None:
        """Go on from step `first` with these replicas alone, as they are."""
        self._release_graphs()
        index = torch.tensor(living, device=self.device)
        self.runs = [self.runs[replica] for replica in living]
        keep_replicas(self.model, index)
        before, self.optimizer = self.optimizer, make_optimizer(parameter_groups(self.model, self.runs), self.runs)
        for name in MOMENTS[isinstance(before, AdamW)]:
            setattr(self.optimizer, name, [moment[index] for moment in getattr(before, name)])
        self.scales = self.scales[:, index]
        self.feed.keep(index)
        self.watch.keep(index)
        self._prepare(first)

    def end_training(self) -> None:
        """Give back what steps took, when none is left that updates: what follows takes memory of its own."""
        if self.capture:
            self._release_graphs(*self.steps.values())
            self.evaluation.pool = self.evaluation.pool and torch.cuda.graph_pool_handle()

    def _release_graphs(self, *captured: Captured) -> None:
        if self.capture:
            torch.cuda.synchronize(self.device)
        for each in captured or (*self.steps.values(), self.evaluation):
            each.release()
        self.model.zero_grad(set_to_none=True)  # gradients lie in the memory of the graphs

    def release(self) -> None:
        """Give all memory back, graphs first; nothing can be done with it any more."""
        self._release_graphs()
        vars(self).clear()


def keep_replicas(model: LanguageModel, living: Tensor) -> None:
    """Take all other replicas out of a model; living: int64 [n]."""
    for module in model.modules():
        if isinstance(module, Weight):
            module.weight = nn.Parameter(module.weight.detach()[living])
        elif isinstance(module, Multiplier) and module.factor is not None:
            module.factor = module.factor[living]
