"""The libraries that families come from: built from a config alone, in torch, without a word to any network."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

import torch
from torch import nn

LIBRARIES = {"transformers": "transformers", "fla": "flash-linear-attention"}
OLDEST = {"transformers": (5, 24), "fla": (0, 3)}
# models are made of configs, so that nothing is to be had from a hub: neither weights nor kernels
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "USE_HUB_KERNELS": "NO"}
# kernels that transformers takes where they are installed; its own torch code computes the same, on a CPU too
KERNELS = ("fla", "causal_conv1d")


def version_of(library: str) -> str:
    """Return a library's name and version, "transformers 5.24.0".

    Raises:
        ValueError: if it is missing, too old, or cannot run here.
    """
    package, oldest = LIBRARIES[library], OLDEST[library]
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ValueError(f"{package} is not installed; pip install 'mupcheck[{library}]'") from None
    if tuple(int(part) for part in found.split(".")[:2] if part.isdecimal()) < oldest:
        least = ".".join(map(str, oldest))
        raise ValueError(f"{package} {found} is older than {least}; pip install -U 'mupcheck[{library}]'")
    if library == "fla" and not torch.cuda.is_available():
        raise ValueError(f"{package} {found} has kernels for GPUs alone, and there is no CUDA device here")
    return f"{package} {found}"


def config_class(library: str, kind: str) -> type:
    """Return the class of a config by its model_type.

    Raises:
        ValueError: if the library has none of it.
    """
    loaded = _loaded(library)
    if library == "fla":
        return type(loaded.AutoConfig.for_model(kind))
    if kind not in loaded.CONFIG_MAPPING:
        package = LIBRARIES[library]
        raise ValueError(f"{package} {metadata.version(package)} has no {kind}; pip install -U 'mupcheck[{library}]'")
    found: type = loaded.CONFIG_MAPPING[kind]
    return found


def model_from(library: str, kind: str, fields: dict[str, Any]) -> nn.Module:
    """Return a new language model of a config's fields, in float32, with the library's own initial values."""
    config = config_class(library, kind)(**fields)
    with _without_kernels(library):
        # experts one after another, by operations that can be seen, and not in one kernel
        seen = {"experts_implementation": "eager"} if library == "transformers" else {}
        model: nn.Module = _loaded(library).AutoModelForCausalLM.from_config(config, dtype=torch.float32, **seen)
    return model.cuda() if library == "fla" else model


def _loaded(library: str) -> Any:
    """Return transformers, offline and silent; with what fla registers there."""
    os.environ.update(OFFLINE)  # read when the library is imported
    with _without_kernels(library):
        transformers = import_module("transformers")
        if library == "fla":
            import_module("fla.models")
    transformers.logging.set_verbosity_error()
    return transformers


@contextmanager
def _without_kernels(library: str) -> Iterator[None]:
    """Hide kernels that a library would take in the place of its own torch code."""
    if library == "fla":
        yield
        return
    kept = {name: sys.modules.get(name) for name in KERNELS}
    sys.modules.update(dict.fromkeys(KERNELS))  # type: ignore[arg-type]  # None: importing it raises
    try:
        yield
    finally:
        for name, module in kept.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
