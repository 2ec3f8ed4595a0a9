"""What a parameter of any model is called: without its wrappers, and with its layer apart."""

from torch import nn

# what torch.compile, activation checkpointing and FSDP put into names, wherever they wrap something
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of DistributedDataParallel, DataParallel and torch.compile, however they are nested."""
    while isinstance(model, PARALLEL) or is_compiled(model):
        inner = model.module if isinstance(model, PARALLEL) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def is_compiled(module: nn.Module) -> bool:
    """Say whether calls of a module go through torch.compile."""
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None


def hidden_in_compiled(model: nn.Module) -> set[nn.Module]:
    """Return the modules of a model that run inside of torch.compile."""
    return {inner for module in model.modules() if is_compiled(module) for inner in module.modules()}


def clean(name: str) -> str:
    """Return a dotted name without what wrappers put into it: "layers.0.mlp" of "layers.0._orig_mod.mlp"."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def place_of(name: str) -> tuple[str, int]:
    """Return (site, layer) of a clean name: ("layers.*.mlp.up.weight", 3) of "layers.3.mlp.up.weight".

    The first number that names a part with parts of its own is the layer. Those of `net.0.weight`, the places of a
    sequence of single modules, stay: what stands there need not be alike. layer is -1 where there is none.
    """
    parts = name.split(".")
    for i, part in enumerate(parts[:-2]):
        if part.isdecimal():
            return ".".join([*parts[:i], "*", *parts[i + 1 :]]), int(part)
    return name, -1
