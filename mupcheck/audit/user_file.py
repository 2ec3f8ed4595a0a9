"""A user's model: `build(width)`, and where the defaults do not fit `optimizer`, `loss` and `batch`.

What these raise is told with the lines of the user's file alone, as it is the user's to mend.
"""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from inspect import isfunction
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

NAMES = {
    "build": 1,
    "optimizer": 1,
    "loss": 2,
    "batch": 1,
    "batches": 1,
}  # what a file may have, and how many values each takes
LR, BETAS, EPS = 2**-10, (0.9, 0.95), 1e-12  # of the default optimizer, an eps that takes no part
TOKENS = 16  # fewer than the smallest width, or slopes are biased (theory.md, section 4)


class UserCodeError(ValueError):
    """What a user's code raised; `lines` are those of its traceback that lie in the user's file."""

    def __init__(self, said: str, lines: tuple[str, ...]) -> None:
        super().__init__(said)
        self.lines = lines


@dataclass(frozen=True)
class UserModel:
    """What a user gives to be audited.

    Attributes:
        name: of the file, or of the function.
        build: (width) -> module.
        optimizer: (model) -> its optimizer, or several things that step once a step, schedulers after optimizers; None
            is AdamW with one lr. It may take `lr`, and `steps`, that a run of a sweep of lrs has.
        loss: (model, batch) -> a scalar; None is the cross-entropy of the next token.
        batch: (seed) -> whatever `loss` takes; None is 17 random tokens of the vocabulary.
        batches: (seed) -> an iterable of such, for a sweep of lrs, in which every step takes the next.
        roles: what is stated of parameters, or (model) -> that, as `mupcheck.infer_roles` takes it.
        sources: hash of the file and of what it imports beside it, "" of functions; what was trained is known by it.
        provenance: what is stored of where it comes from, and makes its runs others than those of another.
        refuses: (width) -> why there is no such width, "" where there is; None is every width.
        offers: the widths that there are; () is whatever is asked for.
    """

    name: str
    build: Callable[[int], nn.Module]
    optimizer: Callable[..., Any] | None = None
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    batch: Callable[[int], Any] | None = None
    batches: Callable[[int], Iterable[Any]] | None = None
    roles: Any = None
    sources: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    refuses: Callable[[int], str] | None = None
    offers: tuple[int, ...] = ()

    def check_width(self, width: int) -> None:
        """Raise ValueError where there is no such width."""
        if self.refuses is not None and (why := self.refuses(width)):
            raise ValueError(f"{self.name}: {why}")

    @property
    def stated(self) -> Any:
        """Return the roles as `mupcheck.infer_roles` takes them, what a function of them raises told as the user's."""
        return partial(self.call, "roles") if callable(self.roles) else self.roles

    def call(self, what: str, *given: Any, **more: Any) -> Any:
        """Call one of these functions.

        Raises:
            UserCodeError: if it raises.
        """
        function = getattr(self, what)
        shown = f"{what}({', '.join([*(_short(each) for each in given), *more])})"
        return self.guard(partial(function, *given, **more), shown)

    def guard(self, function: Callable[[], Any], shown: str) -> Any:
        """Call what runs the user's code, such as a model or its backward pass.

        Raises:
            UserCodeError: if it raises.
        """
        own = inspect.unwrap(self.build)
        return guarded(function, f"{shown} of {self.name}", inspect.getsourcefile(own) if isfunction(own) else None)


def read_model_file(path: Path) -> UserModel:
    """Return what a Python file gives.

    Raises:
        ValueError: if there is no such file, or it has no function build(width), or one takes another number of values.
        UserCodeError: if it raises when it is imported.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a Python file with a function build(width)")
    if path.suffix != ".py":
        raise ValueError(f"{path} is not a Python file; give one with a function build(width)")
    spec = spec_from_file_location(f"audited_{path.stem}".replace(".", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python has it for a script
    before = set(sys.modules)
    guarded(lambda: spec.loader.exec_module(module), f"importing {path.name}", str(path))  # type: ignore[union-attr]
    return replace(model_of(_functions(module), name=path.name), sources=_hash_of(path, before))


def _hash_of(path: Path, before: Collection[str]) -> str:
    """Return a hash of a file and of the user's own modules that it imports: those beside it, or installed nowhere."""
    ours, installed = (
        Path(__file__).resolve().parents[1],
        [Path(each).resolve() for each in (sys.prefix, sys.base_prefix)],
    )
    files = {path.resolve()}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        here = Path(file).resolve()
        theirs = "site-packages" in here.parts or any(each in here.parents for each in (*installed, ours))
        if not theirs and (name not in before or path.resolve().parent in here.parents):
            files.add(here)
    digest = hashlib.sha256()
    for each in sorted(files):
        digest.update(each.read_bytes() if each.is_file() else b"")
    return digest.hexdigest()


def model_of(given: Mapping[str, Any], *, name: str) -> UserModel:
    """Return functions as a model to audit, each checked for what it takes.

    Raises:
        ValueError: if there is no build, or one is no function of so many values.
    """
    if given.get("build") is None:
        raise ValueError(f"{name} has no function build(width) that returns a torch.nn.Module; add one")
    for what, n_values in NAMES.items():
        if (function := given.get(what)) is None:
            continue
        try:
            takes = inspect.signature(function)
            more = {"lr": 0.0} if what == "optimizer" and "lr" in takes.parameters else {}
            takes.bind(*range(n_values), **more)
        except TypeError as error:
            wanted = {"build": "width", "optimizer": "model", "loss": "model, batch"}.get(what, "seed")
            raise ValueError(f"{what} of {name} is to take ({wanted}): {error}") from None
    return UserModel(name, roles=given.get("roles"), **{what: given.get(what) for what in NAMES})  # type: ignore[arg-type]


def guarded(function: Callable[[], Any], shown: str, file: str | None) -> Any:
    """Call a user's function; what it raises becomes a UserCodeError with the lines of the user's file.

    What it prints goes to stderr, as stdout is the answer's.
    """
    try:
        with redirect_stdout(sys.stderr):
            return function()
    except (Exception, SystemExit) as error:
        own = str(Path(file).resolve()) if file else ""
        frames = [
            each for each in traceback.extract_tb(error.__traceback__) if str(Path(each.filename).resolve()) == own
        ]
        lines = "".join(traceback.format_list(frames)).rstrip().splitlines()
        if isinstance(error, SyntaxError):
            lines = "".join(traceback.format_exception_only(error)).rstrip().splitlines()[:-1]
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserCodeError(f"{shown} raised {what}", tuple(lines)) from error


def default_optimizer(model: nn.Module, lr: float = LR) -> Optimizer:
    """Return AdamW with one lr, no decay and an eps that takes no part."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, betas=BETAS, eps=EPS, weight_decay=0.0)


def first_embedding(model: nn.Module) -> nn.Embedding | None:
    """Return the first embedding of a model, whose vocabulary tokens are of; None if it has none."""
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)


def default_batch(model: nn.Module, seed: int, name: str) -> Tensor:
    """Return random tokens [1, TOKENS + 1] of the vocabulary of the model's first embedding."""
    found = first_embedding(model)
    if found is None:
        raise ValueError(
            f"the model of {name} has no nn.Embedding to take tokens from; write batch(seed) and loss(model, batch)"
        )
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(found.num_embeddings, (1, TOKENS + 1), generator=generator)
    return tokens.to(found.weight.device)


def default_loss(user: UserModel, model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy of the next token, in nats.

    Raises:
        ValueError: if what the model returns are no logits.
    """
    out = user.guard(lambda: model(tokens[:, :-1]), "the forward pass")
    logits = getattr(out, "logits", None)
    if logits is None:
        logits = out["logits"] if isinstance(out, Mapping) else out[0] if isinstance(out, tuple) else out
    if not isinstance(logits, Tensor) or logits.shape[:-1] != tokens[:, :-1].shape:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model returns {shape} for tokens {tuple(tokens[:, :-1].shape)}; write loss(model, batch)"
        )
    return F.cross_entropy(logits.flatten(0, -2).float(), tokens[:, 1:].flatten())


def _functions(module: ModuleType) -> dict[str, Any]:
    functions = {what: getattr(module, what, None) for what in NAMES if callable(getattr(module, what, None))}
    return functions | {"roles": getattr(module, "roles", None)}


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int) else "model" if isinstance(value, nn.Module) else "batch"
