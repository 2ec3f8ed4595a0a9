"""The self-test of `doctor`: what works is said to work, and a backend that is wrong anywhere is seen."""

from importlib import metadata

import pytest
import torch

from mupcheck.ops import BACKENDS, gated_delta_rule
from mupcheck.sweep import doctor
from mupcheck.sweep.doctor import examine, try_backend


@pytest.mark.parametrize("backend", ["reference", "chunk"])
def test_the_plain_backends_work(device, backend):
    works, seen = try_backend(backend, device)
    assert works is True
    assert seen.startswith("relative error ")


def test_everything_is_looked_at_once_and_said_in_one_line():
    findings = examine()
    names = [name for name, _, _ in findings]
    assert len(set(names)) == len(names)
    assert {"python", "cores", "torch", "triton", "datasets"} <= set(names)
    assert {f"{backend} on cpu" for backend in BACKENDS if backend != "auto"} <= set(names)
    for name, works, seen in findings:
        assert works in (True, False, None), name
        assert seen and "\n" not in seen, name
    by_name = {name: (works, seen) for name, works, seen in findings}
    assert by_name["torch"] == (None, metadata.version("torch"))
    assert by_name["reference on cpu"][0] is True


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_gpu_is_named_and_tried(device):
    by_name = {name: (works, seen) for name, works, seen in examine()}
    for index in range(torch.cuda.device_count()):
        works, seen = by_name[f"{device}:{index}"]
        assert works and torch.cuda.get_device_name(index) in seen
        assert by_name[f"chunk on {device}:{index}"][0] is True
        assert by_name[f"fused model on {device}:{index}"][0] is True


def test_without_a_gpu_that_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    findings = {name: (works, seen) for name, works, seen in examine()}
    assert findings["cuda"][0] is False
    assert not any(name.startswith("cuda:") or " on cuda" in name for name in findings)


def test_a_package_that_is_missing_is_said(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    findings = {name: (works, seen) for name, works, seen in examine()}
    assert findings["triton"] == findings["datasets"] == (False, "not installed")


def last_step_only(o, state):
    return torch.cat([o[:, :-1], o[:, -1:] * 1.001], 1), state


def last_element_of_the_batch_only(o, state):
    o = o.clone()
    o[-1, 0, 0, 0] += 0.01
    return o, state


def nothing_at_all(o, state):
    return 0 * o, state


def not_a_number(o, state):
    o = o.clone()
    o[0, 0, 0, 0] = torch.nan
    return o, state


def a_gradient_only(o, state):
    return o.detach() + 1.001 * (o - o.detach()), state


@pytest.mark.parametrize(
    "broken",
    [last_step_only, last_element_of_the_batch_only, nothing_at_all, not_a_number, a_gradient_only],
    ids=lambda f: f.__name__,
)
def test_a_wrong_backend_is_seen(monkeypatch, broken):
    def compute(q, *args, **options):
        answer = gated_delta_rule(q, *args, **options)
        return broken(*answer) if q.dtype == torch.float32 else answer

    monkeypatch.setattr(doctor, "gated_delta_rule", compute)
    works, seen = try_backend("chunk", "cpu")
    assert works is False
    assert seen.startswith("relative error ")


def test_matrix_products_in_tf32_are_seen(monkeypatch):
    def compute(q, *args, **options):
        if q.dtype == torch.float32:
            # tf32 keeps 10 of float32's 23 bits of mantissa
            q, *args = ((x.view(torch.int32) & ~0x1FFF).view(torch.float32) for x in (q, *args))
        return gated_delta_rule(q, *args, **options)

    monkeypatch.setattr(doctor, "gated_delta_rule", compute)
    assert try_backend("chunk", "cpu")[0] is False


@pytest.mark.parametrize("error", [ValueError, RuntimeError, ImportError])
def test_a_backend_that_cannot_run_is_no_fault_of_doctor_s(monkeypatch, error):
    def compute(q, *args, **options):
        if q.dtype == torch.float32:
            raise error("no kernel\n  image is available " + "x" * 1000)
        return gated_delta_rule(q, *args, **options)

    monkeypatch.setattr(doctor, "gated_delta_rule", compute)
    works, seen = try_backend("chunk", "cpu")
    assert works is False
    assert seen.startswith("no kernel image is available")
    assert len(seen) <= 200


def test_looking_leaves_torch_s_random_numbers_alone():
    torch.rand(1)  # not where an earlier look may have left them
    before = torch.get_rng_state()
    try_backend("chunk", "cpu")
    assert torch.equal(torch.get_rng_state(), before)
