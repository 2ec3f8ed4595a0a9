"""The whole model from fused kernels and from torch's operations: one loss, one set of gradients."""

from contextlib import nullcontext

import pytest
import torch
from kernel_cases import WHERE, off, place

from mupcheck.measuring.probes import Probe
from mupcheck.model import build_model
from mupcheck.model import fused as fused_model
from mupcheck.ops import fused
from mupcheck.sweep import doctor

mixer = pytest.importorskip("mupcheck.ops.kernels.mixer")

# Beside float64, of a loss and of each gradient. float32: through two blocks roundings add up, most in the gates'.
# bfloat16: every tensor between kernels is rounded by 2^-9, some forty of them one after another.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 0.1}


def model_of(make_run, device, *, replicas=2, **changes):
    shape = {"width": 16, "base_width": 8, "n_heads": 2, "head_k_dim": 3, "head_v_dim": 5, "vocab_size": 50}
    runs = [make_run(seed=seed, **shape, **changes) for seed in range(replicas)]
    model = build_model(runs, device)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # gains of 1 and readouts of 0 would hide much
            weight += 0.05 * torch.randn(weight.shape, generator=draw).to(weight)
    tokens = torch.randint(0, 50, (replicas, 2, 6), generator=draw)
    return model, tokens.to(device)


def loss_and_gradients(model, tokens, dtype=torch.float32):
    model.zero_grad(set_to_none=True)
    with torch.autocast(tokens.device.type, dtype) if dtype == torch.bfloat16 else nullcontext():
        loss = model.loss(tokens)
    loss.sum().backward()
    return {"loss": loss.detach()} | {name: weight.grad.clone() for name, weight in model.named_parameters()}


def in_float64(model, tokens):
    model = model.double()
    for module in model.modules():
        if getattr(module, "factor", None) is not None:
            module.factor = module.factor.double()
    with fused.switched_off():
        return loss_and_gradients(model, tokens)


@pytest.fixture(autouse=True)
def _kernels_on_a_cpu_too(monkeypatch):
    monkeypatch.setattr(fused, "DEVICES", {"cuda", "cpu"})


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "changes", [{"n_layers": 2}, {"tied": True, "logit_scale": 2.0}, {"parametrization": "sp", "conv_size": 2}]
)
def test_loss_and_every_gradient(make_run, where, changes):
    device, dtype = place(where)
    model, tokens = model_of(make_run, device, **changes)
    assert fused_model.fits(model, model.embedding.weight)
    got = loss_and_gradients(model, tokens, dtype)
    with torch.no_grad(), torch.autocast(device, dtype) if dtype == torch.bfloat16 else nullcontext():
        assert torch.equal(model.loss(tokens), got["loss"])
    with fused.switched_off():
        beside = loss_and_gradients(model, tokens, dtype)
    right = in_float64(model, tokens)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(dtype))
    rounded = in_float64(model, tokens)
    for name, expected in right.items():
        # behind unit norms of what is nearly zero a gradient may change by half of itself once weights are rounded
        allowed = 3 * max(off(beside[name], expected), off(rounded[name], expected))
        assert off(got[name], expected) < max(TOLERANCES[dtype], allowed), name
    assert not all(torch.equal(got[name], beside[name]) for name in got), "the fused path did not run"


@pytest.mark.parametrize("where", WHERE)
def test_a_replica_of_nan_leaves_the_others_as_they_are(make_run, where):
    device, dtype = place(where)
    model, tokens = model_of(make_run, device, replicas=3)
    clean = loss_and_gradients(model, tokens, dtype)
    again = loss_and_gradients(model, tokens, dtype)
    model.blocks[0].mixer.q_proj.weight.data[1] = float("nan")
    poisoned = loss_and_gradients(model, tokens, dtype)
    for name, values in clean.items():
        assert torch.equal(values, again[name]), name
        assert torch.equal(values[[0, 2]], poisoned[name][[0, 2]]), name
    assert poisoned["loss"][1].isnan()


def test_what_a_full_probe_watches_is_computed_by_the_modules(make_run):
    model, tokens = model_of(make_run, "cpu")
    probe = Probe(model)
    assert fused_model.fits(model, model.embedding.weight)
    probe.start()
    assert not fused_model.fits(model, model.embedding.weight)
    model.loss(tokens).sum().backward()
    assert probe.inputs and probe.sizes
    with fused.switched_off():
        assert not fused_model.fits(model, model.embedding.weight)
    assert not fused_model.fits(model, model.embedding.weight.double())


@pytest.mark.parametrize("where", WHERE)
def test_a_probe_of_activations_sees_every_site_and_changes_nothing(make_run, where):
    device, dtype = place(where)
    model, tokens = model_of(make_run, device)
    unwatched = loss_and_gradients(model, tokens, dtype)
    sizes = []
    for context in (nullcontext(), fused.switched_off()):
        with context:
            probe = Probe(model, full=False)
            probe.start()
            assert fused_model.fits(model, model.embedding.weight) == (not sizes)
            watched = loss_and_gradients(model, tokens, dtype)
            probe.finish(None, None)  # of activations alone it asks neither
            sizes.append(dict(probe.sizes))
        if len(sizes) == 1:
            assert all(torch.equal(values, watched[name]) for name, values in unwatched.items())
    shown, right = sizes
    assert set(shown) == set(right) and len(right) > 20
    for key, size in right.items():
        assert off(shown[key], size) < TOLERANCES[dtype], key


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("changes", [{"n_layers": 2}, {"tied": True, "parametrization": "sp", "conv_size": 2}])
def test_sizes_that_kernels_sum_are_those_of_the_values_that_others_are_shown(make_run, where, changes):
    device, dtype = place(where)
    model, tokens = model_of(make_run, device, **changes)
    probe, sizes, values = Probe(model, full=False), [], []
    for others in (False, True):
        probe.start()
        handles = [m.register_forward_hook(lambda *seen: values.append(seen[2])) for *_, m in probe.sites if others]
        with torch.autocast(device, dtype) if dtype == torch.bfloat16 else nullcontext():
            model.loss(tokens)
        assert len(probe.sums.asked) == (0 if others else len(probe.sites))
        probe.finish(None, None)
        sizes.append(dict(probe.sizes))
        for handle in handles:
            handle.remove()
    summed, shown = sizes
    assert len(values) == len(probe.sites) and set(summed) == set(shown)
    for key, size in shown.items():  # float32: sums in another order; bfloat16: o_raw's factor is no longer rounded
        assert off(summed[key], size) < {torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype], key


def test_a_hook_that_replaces_what_passes_is_refused(make_run):
    device, _ = place(("cpu", torch.float32))
    model, tokens = model_of(make_run, device)
    handle = model.blocks[0].sites["norm2"].register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.raises(RuntimeError, match="a hook replaces what passes norm2"):
        model.loss(tokens)
    handle.remove()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_repeats_the_eager_one(make_run, dtype):
    model, tokens = model_of(make_run, "cuda", n_layers=2)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        eager = loss_and_gradients(model, tokens, dtype)
    torch.cuda.current_stream().wait_stream(side)
    graph, weights = torch.cuda.CUDAGraph(), dict(model.named_parameters())
    model.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        with torch.autocast("cuda", dtype, cache_enabled=False) if dtype == torch.bfloat16 else nullcontext():
            loss = model.loss(tokens)
        loss.sum().backward()
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(loss, eager["loss"])
        assert all(torch.equal(weight.grad, eager[name]) for name, weight in weights.items())


def test_the_doctor_tries_the_fused_model(monkeypatch):
    assert doctor.try_fused("cpu")[0] is True  # where kernels run on a CPU, as here
    real = mixer.conv_backward

    def off(*given, **named):
        return real(*given, **named) * 1.01

    monkeypatch.setattr(mixer, "conv_backward", off)
    works, seen = doctor.try_fused("cpu")
    assert works is False and "of gradients 1.0e-02" in seen


def test_tokens_of_another_shape_are_refused_in_the_same_words(make_run):
    model, tokens = model_of(make_run, "cpu")
    with pytest.raises(ValueError, match=r"tokens have shape \[2, 5\], expected \[R, B, T\] with R = 2 replicas"):
        model.loss(tokens[0])


def test_on_a_cpu_torch_computes_unless_a_test_asks(make_run, monkeypatch):
    monkeypatch.setattr(fused, "DEVICES", {"cuda"})
    model, _ = model_of(make_run, "cpu")
    assert not fused_model.fits(model, model.embedding.weight)
