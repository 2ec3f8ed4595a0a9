"""A model from its spec, in one line."""

import torch
from small_results import refusal

import mupcheck


def test_a_spec_is_a_model_in_one_line():
    spec = mupcheck.ModelSpec(width=32, base_width=16, vocab_size=32, readout_std=0.25)
    model = mupcheck.build_model(spec, parametrization="gdn-mup", optimizer="adamw", seed=0)
    assert isinstance(model, torch.nn.Module)
    tokens = torch.arange(12).view(2, 6) % 32
    logits = model(tokens[None])
    assert logits.shape == (1, 12, 32) and logits.isfinite().all() and logits.std() > 0
    message = "tokens have shape [2, 6], expected [R, B, T] with R = 1 replica; try tokens[None]"
    assert refusal(model, tokens) == message


def test_a_spec_gives_the_model_of_its_run(make_run):
    shape = {"width": 32, "base_width": 16, "n_heads": 2, "vocab_size": 32, "readout_std": 0.25}
    tokens = torch.arange(6).view(1, 1, 6)
    for name in ("sp", "gdn-mup"):
        spec = mupcheck.ModelSpec(**shape)
        one = mupcheck.build_model(spec, parametrization=name, seed=3)(tokens)
        two = mupcheck.build_model([make_run(name, width=32, seed=3)])(tokens)
        assert torch.equal(one, two)
        assert torch.equal(one, mupcheck.build_model(make_run(name, width=32, seed=3))(tokens))
        assert not torch.equal(one, mupcheck.build_model(spec, parametrization=name, seed=4)(tokens))
    assert not torch.equal(one, mupcheck.build_model(mupcheck.ModelSpec(**shape), parametrization="sp", seed=3)(tokens))


def test_what_is_no_model_is_told_what_is(make_run):
    build, spec = mupcheck.build_model, mupcheck.ModelSpec(width=32, base_width=16)
    takes = "build_model() takes a ModelSpec, such as ModelSpec(width=128, base_width=64), or a list of RunSpec, not "
    assert refusal(build, []) == f"{takes}an empty list"
    assert refusal(build, None) == f"{takes}None"
    assert refusal(build, [spec]) == f"{takes}a list"
    assert refusal(build, [make_run()], seed=1) == "seed belongs to a ModelSpec; runs bring their own"
    assert "unknown parametrization 'mu'" in refusal(build, spec, parametrization="mu")
    assert refusal(build, spec, optimizer="adam").startswith("build_model(): optimizer = 'adam' is not allowed")
