"""Models in wrappers, as people train them: the same names, the same sizes, and training as without a recorder."""

import pytest
import torch
import torch.distributed as dist
from own_models import Transformer, adamw, loss_of, tokens, train
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from mupcheck.recording.names import clean, place_of, unwrapped
from mupcheck.recording.recorder import Recorder

STEPS = 3


class Checkpointed(Transformer):
    reentrant = False

    def forward(self, x):
        x = self.embedding(x)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.reentrant)
        return self.head(self.norm(x)) / self.m


class Reentrant(Checkpointed):
    reentrant = True


def run(kind=Transformer, wrap=lambda model: model, *, recorded=True, **options):
    """Return losses, weights and the sizes that were recorded of the last step."""
    torch.manual_seed(3)
    model = kind(32, mup=True, base=16)
    optimizer = adamw(model)
    wrapped = wrap(model)
    recorder = Recorder(wrapped, optimizer, width=32, **options) if recorded else None
    losses = train(wrapped, optimizer, tokens(), STEPS, recorder)
    rows = recorder.sizes.rows if recorder else ()
    sizes = {row[:5]: row.values[0] for row in rows if row.step == STEPS - 1 and row.kind != "activation"}
    return torch.stack(losses), [p.detach() for p in model.parameters()], sizes


def wrap_layers(model):
    model.layers = nn.ModuleList(checkpoint_wrapper(layer) for layer in model.layers)
    return model


@pytest.fixture
def _process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_process_group")
@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        (Transformer, DistributedDataParallel),
        (Transformer, wrap_layers),
        (Checkpointed, lambda model: model),
        (Reentrant, lambda model: model),
        (Checkpointed, DistributedDataParallel),
    ],
    ids=["ddp", "checkpoint wrapper", "checkpointed", "checkpointed, reentrant", "checkpointed in ddp"],
)
def test_wrappers_leave_names_sizes_and_training_alone(kind, wrap):
    losses, _, sizes = run()
    assert torch.isfinite(losses).all() and len(sizes) > 150
    wrapped = run(kind, wrap)
    assert wrapped[2].keys() == sizes.keys()
    assert wrapped[2] == pytest.approx(sizes, rel=1e-5)  # sums may be in another order
    plain = run(kind, wrap, recorded=False)
    assert torch.equal(plain[0], wrapped[0]) and all(map(torch.equal, plain[1], wrapped[1]))


def test_what_is_computed_again_in_the_backward_pass_counts_once():
    _, _, once = run()
    _, _, again = run(Checkpointed)
    key = next(key for key in once if key[1:4] == (0, "layers.*.up.weight", "effective_update"))
    assert again[key] == pytest.approx(once[key], rel=1e-5)


def test_of_several_forward_passes_the_first_counts():
    sizes = []
    for passes in (1, 2):
        torch.manual_seed(3)
        model = Transformer(32)
        optimizer = adamw(model)
        recorder = Recorder(model, optimizer, width=32)
        for _ in range(2):
            with recorder.step():
                for seed in range(passes):
                    loss_of(model, tokens(seed)).backward()
                for parameter in model.parameters():
                    parameter.grad.copy_(torch.ones_like(parameter))  # so that both train alike
                optimizer.step()
                optimizer.zero_grad()
        sizes.append({row[:5]: row.values[0] for row in recorder.sizes.rows if row.kind == "effective_update"})
    assert sizes[0] and sizes[0] == sizes[1]


def compiled(model):
    return torch.compile(model, backend="aot_eager")


def test_inside_of_torch_compile_only_changes_are_seen_and_that_is_said():
    torch._dynamo.reset()
    plain = run(wrap=compiled, recorded=False)
    losses, weights, sizes = run(wrap=compiled)
    assert torch.equal(plain[0], losses) and all(map(torch.equal, plain[1], weights))
    kinds = {(key[3], key[4]) for key in sizes if key[2] == "layers.*.up.weight"}
    assert ("effective_update", "rms") not in kinds
    assert {("effective_update", "spectral"), ("weight_update", "rms"), ("weight_grad", "rms")} <= kinds
    assert ("effective_update", "rms") in {(key[3], key[4]) for key in sizes if key[2] == "layers.*.norm1.weight"}


def test_recorded_steps_can_run_without_torch_compile():
    torch._dynamo.reset()
    _, _, sizes = run()
    _, _, eager = run(wrap=compiled, eager=True)
    assert eager.keys() == sizes.keys()
    assert eager == pytest.approx(sizes, rel=1e-5)


def test_a_compiled_layer_is_compiled_too():
    torch._dynamo.reset()

    def wrap(model):
        model.layers[0] = compiled(model.layers[0])
        return model

    plain = run(wrap=wrap, recorded=False)
    losses, weights, sizes = run(wrap=wrap)
    assert torch.equal(plain[0], losses) and all(map(torch.equal, plain[1], weights))
    assert {key[2] for key in sizes if key[1] == 0} == {key[2] for key in sizes if key[1] == 1}


@pytest.mark.parametrize(
    ("name", "cleaned", "place"),
    [
        ("layers.0._checkpoint_wrapped_module.up.weight", "layers.0.up.weight", ("layers.*.up.weight", 0)),
        ("_orig_mod.layers.11._orig_mod.up.weight", "layers.11.up.weight", ("layers.*.up.weight", 11)),
        ("h.2.experts.7.up.weight", "h.2.experts.7.up.weight", ("h.*.experts.7.up.weight", 2)),
        ("net.0.weight", "net.0.weight", ("net.0.weight", -1)),
        ("weight", "weight", ("weight", -1)),
    ],
)
def test_names_are_those_of_the_model(name, cleaned, place):
    assert clean(name) == cleaned
    assert place_of(cleaned) == place


def test_a_module_called_module_is_no_wrapper():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(4, 4)

    outer = Outer()
    assert unwrapped(outer) is outer
    assert unwrapped(nn.DataParallel(outer)) is outer
