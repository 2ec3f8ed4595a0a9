"""Which operation uses which parameter, with which input: what an effective update is computed from.

While a forward pass is watched, every call of a torch function that is linear in a weight is seen where it is made,
whoever makes it: nn.Linear, a class of one's own, `F.linear(x, self.embedding.weight)`, `x @ self.w.T`, an expert's
slice `self.w[e]`. The call is remembered with its inputs, and made again later with the weight's change in place of
the weight. Nothing that the model computes is touched.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# functions linear in the arguments at `acting`; `beside` is a bias, which is left out
LINEAR: dict[Any, tuple[str, tuple[int, ...], int | None]] = {
    F.linear: ("linear", (1,), 2),
    F.embedding: ("embedding", (1,), None),
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), ("conv", (1,), 2)),
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm), ("linear", (0, 1), None)),
    **dict.fromkeys((Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__), ("linear", (0, 1), None)),
    torch.addmm: ("linear", (1, 2), 0),
}  # fmt: skip
KEYWORDS = {"input": 0, "weight": 1, "bias": 2, "mat1": 1, "mat2": 2, "other": 1}
# what hands on the values of its first argument in another shape or format
SAME_VALUES = (
    Tensor.view, Tensor.reshape, torch.reshape, Tensor.float, Tensor.to, Tensor.contiguous, Tensor.transpose,
    torch.transpose, Tensor.flatten, torch.flatten, Tensor.unflatten, Tensor.squeeze, Tensor.unsqueeze,
    Tensor.bfloat16, Tensor.half, Tensor.double,
)  # fmt: skip
TIMES = (Tensor.mul, torch.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.mul_, Tensor.__imul__)
OVER = (Tensor.div, torch.div, Tensor.__truediv__, torch.true_divide, Tensor.div_, Tensor.__itruediv__)


@dataclass
class Use:
    """One call of a function that is linear in a parameter.

    Attributes:
        name: of the parameter.
        kind: "linear", "embedding" or "conv".
        call: makes the call again with a change of the parameter in its place.
        x: what the weight acted on; version: how often it had been overwritten by then.
        fans: values that one value of the outcome is a sum of, and values that come out for them.
        multiplier: what the model multiplied the outcome by, where that is the model's last such call.
        before: what the model multiplied the input by, directly before.
        view: takes the parameter to the part of it that is used; None where that is all of it.
    """

    name: str
    kind: str
    call: Callable[[Tensor], Tensor]
    x: Tensor
    version: int
    fans: tuple[int, int]
    multiplier: float = 1.0
    before: float = 1.0
    view: Callable[[Tensor], Tensor] | None = None

    def of_rows(self, rows: Tensor, shape: Sequence[int]) -> "Use | None":
        """Return the use of some rows of a parameter of that shape: its call takes their change. None if it has none.

        What a product with all but these rows 0 gives is 0 elsewhere, so its rms is too small by the root of how many
        of the rows that the call uses are among these.
        """
        if self.kind == "linear" and self.view is None:
            return replace(self, fans=(self.fans[0], len(rows)))  # F.linear of fewer rows
        index = torch.arange(shape[0], device=rows.device).view(-1, *[1] * (len(shape) - 1)).expand(*shape)
        used = torch.arange(shape[0]) if self.view is None else self.view(index).unique()
        n_mine = int(torch.isin(used.cpu(), rows.cpu()).sum())
        if not n_mine:
            return None

        def call(change: Tensor) -> Tensor:
            whole = change.new_zeros(tuple(shape))
            whole[rows] = change
            return self.call(whole) * (len(used) / n_mine) ** 0.5

        x, channels = self.x, 1 - len(shape)
        if self.kind == "conv" and shape[1] == 1 and x.shape[channels] == shape[0]:
            x = x.index_select(channels, rows)  # a filter for each channel
        return replace(self, call=call, x=x, fans=(self.fans[0], n_mine))


def unwatched() -> AbstractContextManager[None]:
    """Return what lets torch functions go by unseen, as a recorder's own are to."""
    return torch._C.DisableTorchFunction()


def in_backward() -> bool:
    """Say whether this runs inside a backward pass, as what activation checkpointing computes again does."""
    return torch._C._current_graph_task_id() != -1


class Uses(TorchFunctionMode):
    """Notes each use of the parameters while it is entered; what it returns is what the function returned.

    Args:
        parameters: name by the parameter's id.
    """

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.found: list[Use] = []
        self.paused = False
        self._last: list[Tensor] = []  # the outcome of the last use, and what only reshapes or scales it
        self._scaled: tuple[Any, float] = (None, 1.0)  # what was last multiplied by a number, and that

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, and note what it used."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward and not self.paused:
            return self._inside(func, args, kwargs)
        out = func(*args, **kwargs)
        if self.paused or not isinstance(out, Tensor):
            return out
        if func in LINEAR:
            self._note(func, args, kwargs, out)
        elif args:
            self._follow(func, args, out)
        return out

    def _inside(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function that is made of others, which are watched; it asks who watches, and would come back here."""
        asked = F.has_torch_function  # type: ignore[attr-defined]
        F.has_torch_function = lambda _: False  # type: ignore[attr-defined]
        try:
            with self:
                return func(*args, **kwargs)
        finally:
            F.has_torch_function = asked  # type: ignore[attr-defined]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until `stop`, or the end at the latest."""
        with ExitStack() as self._stack:
            self._stack.enter_context(self)
            yield

    def stop(self) -> None:
        """Stop watching, so that what follows costs nothing more; where others watch too, just look away."""
        self.paused = True
        if torch.overrides._get_current_function_mode() is self:
            self._stack.pop_all().close()

    def forget(self) -> None:
        """Drop what was noted."""
        self.found, self._last, self._scaled = [], [], (None, 1.0)

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> None:
        kind, acting, beside = LINEAR[func]
        given = dict(enumerate(args))
        places = {index: key for key, index in KEYWORDS.items() if key in kwargs and index not in given}
        given |= {index: kwargs[key] for index, key in places.items()}
        rest = {key: value for key, value in kwargs.items() if key not in places.values()}
        for at in acting:
            weight = given.get(at)
            if not isinstance(weight, Tensor) or (found := self._owner(weight)) is None or in_backward():
                continue
            x = next(given[i] for i in range(3) if i != at and i != beside and isinstance(given.get(i), Tensor))
            view = _view_of(weight)
            call = _again(func, given, at, beside, rest, view)
            fans = _fans(func, at, weight)
            of_all = func is F.linear or kind == "conv"  # of which the rows are those of the outcome
            seen = None if of_all and weight._base is None else view
            before = self._scaled[1] if self._scaled[0] is x else 1.0
            self.found.append(Use(found, kind, call, x.detach(), x._version, fans, before=before, view=seen))
            self._last = [out] if kind != "conv" else []

    def _owner(self, weight: Tensor) -> str | None:
        """Return the name of the parameter that a tensor is, or is a part of."""
        return self.parameters.get(id(weight)) or self.parameters.get(id(weight._base))

    def _follow(self, func: Any, args: tuple[Any, ...], out: Tensor) -> None:
        """Note what the outcome of the last use is multiplied by, or what else is multiplied by a number."""
        first = args[0]
        other = args[1] if len(args) > 1 else None
        if func in SAME_VALUES and self._is_last(first):
            self._last.append(out)
        elif func in TIMES or func in OVER:
            if func in TIMES and self._is_last(other):
                first, other = other, first
            if self._is_last(first) and (factor := _constant(other)) is not None and not in_backward():
                self.found[-1].multiplier *= factor if func in TIMES else 1 / factor
                self._last = [out]
            elif not self._is_last(first) and isinstance(first, Tensor) and (factor := _constant(other)) is not None:
                self._scaled = out, factor if func in TIMES else 1 / factor

    def _is_last(self, x: Any) -> bool:
        return any(x is one for one in self._last)


def _fans(func: Any, at: int, weight: Tensor) -> tuple[int, int]:
    """Return fan-in and fan-out of a weight in a function's argument `at`."""
    if weight.dim() < 2:
        return weight.numel(), 1
    kind, acting, _ = LINEAR[func]
    if kind == "embedding":
        return 1, weight.shape[1]
    if kind == "conv":
        return weight[0].numel(), weight.shape[0]
    # a matrix on the right maps its rows to its columns, any other its columns to its rows
    on_the_right = func is not F.linear and at == acting[-1]
    return (weight.shape[-2], weight.shape[-1]) if on_the_right else (weight.shape[-1], weight.shape[-2])


def _constant(x: Any) -> float | None:
    """Return a number, or a tensor of one value, as a number; None of anything else, and of 0."""
    if isinstance(x, int | float):
        return float(x) or None
    if isinstance(x, Tensor) and x.numel() == 1 and not x.requires_grad:
        return float(x.detach()) or None
    return None


def _view_of(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what takes the whole parameter's change to the part of it that `weight` is of the parameter."""
    if weight._base is None:
        return lambda change: change
    shape, stride, offset = weight.shape, weight.stride(), weight.storage_offset() - weight._base.storage_offset()
    return lambda change: change.contiguous().as_strided(shape, stride, offset)


def _again(
    func: Any,
    given: Mapping[int, Any],
    at: int,
    beside: int | None,
    rest: Mapping[str, Any],
    view: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    """Return the call with another weight, without the bias, in the number format of that weight."""
    kept = {i: x.detach() if isinstance(x, Tensor) else x for i, x in given.items() if i not in (at, beside)}

    def call(change: Tensor) -> Tensor:
        of = {i: x.to(change.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for i, x in kept.items()}
        of[at] = view(change)
        if func is torch.addmm:
            return torch.mm(of[1], of[2])
        if beside is not None:
            of[beside] = None
        out: Tensor = func(*(of.get(i) for i in range(max(of) + 1)), **rest)
        return out

    return call
