"""Coordinate sizes of any torch model, measured in its user's own loop, into the tables of a coordinate check.

A recorder knows a model by its parameters and by the operations that use them, not by its classes. In a recorded step
it watches the forward pass for operations that are linear in a weight (`uses`): with the weight's change since the
first step in the weight's place, the same operation on the same input is the effective update, exact for Linear,
Embedding, convolutions, tied weights (counted once for each kind of use), slices and transposes. Norm gains, biases and
other vectors act by their change itself. What no such operation uses, as weights in kernels of their own, has its
change, and the spectral norm of that over sqrt(fan_out / fan_in), and that is all that can be said. When the optimizer
is about to step, weights, gradients, changes and what its groups apply are read; nothing that the model, the loss or
the optimizer computes is touched, and no random number is drawn.

Cannot be seen: what happens inside of torch.compile (give the compiled model, not the one inside of it, so that this is
known; `eager=True` runs recorded steps without it, which rounds otherwise), and sharded weights (FSDP), which are
refused. Of several forward passes in one step, as with gradient accumulation, the first counts.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupcheck.recording.names import clean, hidden_in_compiled, place_of, unwrapped
from mupcheck.recording.pieces import Rows
from mupcheck.recording.sizes import Sizes
from mupcheck.recording.tables import Step, check_name, coords_of, run_id_of, run_of, steps_of
from mupcheck.recording.uses import Uses, in_backward, unwatched
from mupcheck.results.writing import write_run


def log_spaced(step: int) -> bool:
    """Say whether a step is one of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: two in each doubling."""
    return step < 4 or step & (step - 1) == 0 or (step % 3 == 0 and (step // 3) & (step // 3 - 1) == 0)


class Recorder:
    """Records a training loop: `with recorder.step():` around each step, `recorder.write()` at the end.

        recorder = mupcheck.Recorder(model, optimizer, out="results", name="mine", width=256, seed=0)
        for batch in batches:
            with recorder.step() as step:
                step.loss = loss = model(batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        recorder.write()

    Changes are measured from the weights at construction, of which it keeps a copy. `mupcheck.judge(load_results(...))`
    judges what runs at three widths and more, with two seeds and more, have written.

    Args:
        model: any nn.Module, in wrappers or not, before its first update.
        optimizer: the torch optimizer that trains it, or several of them.
        out, name: results go into the folder `out`/`name`.
        width, seed: of this run; one run is one file.
        record: steps to record, or a function that says whether to; counted by updates taken. Default: `log_spaced`.
        outputs: names of modules whose outputs are recorded, "all" of them, or none.
        multipliers: what the model multiplies outputs by, by the name of the module with the weight, where it is not
            plain to see: a number that scales the last matrix product (logits / m) is.
        rows: of weights that fuse several, the rows of each part by name, as `mupcheck.fused_rows(model)` returns
            them: each part is then measured alone.
        eager: run recorded steps without torch.compile.

    Raises:
        ValueError: if the model is none, has no parameters, holds meta, quantised or sharded ones, or an argument is
            not what it should be; the message names it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        width: int,
        seed: int = 0,
        out: str | Path = "results",
        name: str = "recorded",
        record: Collection[int] | Callable[[int], bool] | None = None,
        outputs: Collection[str] = "all",
        multipliers: Mapping[str, float] | None = None,
        rows: Mapping[str, Mapping[str, Rows]] | None = None,
        eager: bool = False,
    ) -> None:
        self.optimizers = _optimizers(optimizer)
        self.given, self.model = model, unwrapped(_module(model))
        self.folder, self.name = Path(out) / check_name(name), name
        self.width, self.seed = _whole("width", width, least=1), _whole("seed", seed, least=0)
        record = log_spaced if record is None else record
        self.record = record if callable(record) else frozenset(record).__contains__
        self.outputs, self.eager = outputs, eager
        named = [(clean(each), parameter) for each, parameter in self.model.named_parameters()]
        by = _by_parameter(multipliers or {}, dict(named))
        self.sizes = Sizes(self.model, self.optimizers, dict(named), by, rows)
        # inside of torch.compile nothing can be seen, and what watches would be compiled in
        self.compiled = bool(hidden_in_compiled(model))
        self.sees_uses = eager or not self.compiled
        self.uses = Uses({id(parameter): each for each, parameter in named if each not in self.sizes.lawful})
        self.steps: list[Step] = []
        self.seconds = self._since = 0.0
        self._began: float | None = None
        self._forwards = 0
        self._open = False
        self._handles: list[Any] = []

    @contextmanager
    def step(self) -> Iterator[Step]:
        """Stand around one step, forward pass to the optimizer's; yields what takes up its loss."""
        self._began = self._began or time.perf_counter()
        now = Step(len(self.steps))
        if not self.record(now.number):
            yield now
            self._keep(now)
            return
        with self._clock():
            self._start(now)
        try:
            with ExitStack() as stack:
                if self.compiled and self.eager:
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                if self.sees_uses:
                    stack.enter_context(self.uses.watching())
                yield now
            self._finish(now)  # where no optimizer stepped
        finally:
            self._stop()
        self._keep(now)

    def write(self, *, key: str = "") -> Path:
        """Write the run, whole or not at all, in place of an earlier one of its width and seed; return its folder.

        Of several processes of torch.distributed only the first one writes.

        Args:
            key: what else makes this run another one than that of its name, width and seed.

        Raises:
            ValueError: if no step was recorded.
            StoreError: if it cannot be stored.
        """
        if not self.sizes.rows:
            raise ValueError(
                f"nothing was recorded in {len(self.steps)} steps; put `with recorder.step():` around each"
            )
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return self.folder
        of: dict[str, Any] = {"name": self.name, "width": self.width, "seed": self.seed}
        run_id = run_id_of(self.name, self.width, self.seed, key)
        took = time.perf_counter() - (self._began or time.perf_counter())
        run = run_of(self.sizes, self.steps, run_id=run_id, seconds=took, **of)
        write_run(self.folder, run, steps_of(self.steps), coords_of(self.sizes.rows))
        return self.folder

    @property
    def cost(self) -> str:
        """Say what recording cost so far, of the time since the first step."""
        took = time.perf_counter() - self._began if self._began is not None else 0.0
        return f"recording took {self.seconds:.3g} s of {took:.3g} s ({self.seconds / max(took, 1e-9):.1%})"

    @property
    def unseen(self) -> tuple[str, ...]:
        """Return the trained matrices whose use no recorded step has seen: they are known by their change alone."""
        return self.sizes.unseen

    def _keep(self, now: Step) -> None:
        if isinstance(now.loss, Tensor):
            now.loss = now.loss.detach()  # or its graph would stay
        self.steps.append(now)

    def _start(self, now: Step) -> None:
        self.uses.forget()
        self.uses.paused, self._forwards, self._open = False, 0, True
        self._handles = [self.optimizers[0].register_step_pre_hook(lambda *_: self._finish(now))]
        # a hook inside of torch.compile would be compiled in
        hidden = set() if self.eager else hidden_in_compiled(self.given)
        if self.model not in hidden:
            self._handles.append(self.model.register_forward_pre_hook(self._on_forward, prepend=True))
        for name, module in self.sizes.lawful_modules:
            if module not in hidden:
                self._handles.append(module.register_forward_pre_hook(partial(self._on_input, name)))
        for name, module in self.model.named_modules():
            called = clean(name)
            if called and module not in hidden and (self.outputs == "all" or called in self.outputs):
                self._handles.append(module.register_forward_hook(partial(self._on_output, called)))

    def _stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.uses.forget()
        self._open = False

    def _finish(self, now: Step) -> None:
        """Measure once, after the backward pass and before the update."""
        if not self._open:
            return
        self._open = False
        self.uses.stop()
        with self._clock(), unwatched(), torch.no_grad():
            now.grad_norm = self.sizes.measure(now.number, self.uses.found)
        self.uses.forget()

    def _on_forward(self, *_: Any) -> None:
        if not in_backward():
            self._forwards += 1
            self.uses.paused = self._forwards > 1

    def _on_input(self, name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._forwards <= 1 and not in_backward():
            self.sizes.inputs.setdefault(name, args[0].detach() if args else None)

    def _on_output(self, name: str, _module: nn.Module, _args: Any, out: Any) -> None:
        if self._open and self._forwards <= 1 and not in_backward():
            start = time.perf_counter()
            with unwatched():  # first of all: under who watches, even to switch gradients off takes long
                self.sizes.output(*place_of(name), out)
            self.seconds += time.perf_counter() - start

    @contextmanager
    def _clock(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def _module(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}, not a torch.nn.Module; give the model itself")
    return model


def _optimizers(optimizer: object) -> tuple[Optimizer, ...]:
    found = tuple(optimizer) if isinstance(optimizer, list | tuple) else (optimizer,)
    for each in found:
        if not isinstance(each, Optimizer):
            raise ValueError(f"optimizer is a {type(each).__name__}, not a torch.optim.Optimizer or several of them")
    if not found:
        raise ValueError("optimizer is an empty list; give the one that trains the model")
    return found


def _whole(name: str, value: object, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} is not a whole number of at least {least}")
    return value


def _by_parameter(multipliers: Mapping[str, float], parameters: Mapping[str, Any]) -> dict[str, float]:
    """Return multipliers by the name of the parameter, "head.weight" of a module's "head"."""
    found = {}
    for name, value in multipliers.items():
        known = [each for each in (name, f"{name}.weight") if each in parameters]
        if not known:
            raise ValueError(
                f"multipliers has {name!r}, which no parameter is called; such as {next(iter(parameters))}"
            )
        if not math.isfinite(value) or value == 0:
            raise ValueError(f"multipliers[{name!r}]={value!r} is not a number other than 0")
        found[known[0]] = float(value)
    return found
