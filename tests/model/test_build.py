"""A model from its spec, in one line."""

from threading import current_thread

import pytest
import torch
from small_results import refusal

import mupcheck
from mupcheck.model import build


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
    make, spec = mupcheck.build_model, mupcheck.ModelSpec(width=32, base_width=16)
    takes = "build_model() takes a ModelSpec, such as ModelSpec(width=128, base_width=64), or a list of RunSpec, not "
    assert refusal(make, []) == f"{takes}an empty list"
    assert refusal(make, None) == f"{takes}None"
    assert refusal(make, [spec]) == f"{takes}a list"
    assert refusal(make, [make_run()], seed=1) == "seed belongs to a ModelSpec; runs bring their own"
    assert "unknown parametrization 'mu'" in refusal(make, spec, parametrization="mu")
    assert refusal(make, spec, optimizer="adam").startswith("build_model(): optimizer = 'adam' is not allowed")


def test_initial_values_are_the_same_however_many_threads_draw_them(make_run, monkeypatch):
    runs = [make_run(name, seed=seed, width=32) for seed, name in ((3, "sp"), (4, "sp"), (3, "gdn-mup"))]
    one = dict(build.build_model(runs).named_parameters())
    calls = []
    draw = build._base_values
    monkeypatch.setattr(build, "_base_values", lambda *of: calls.append(current_thread().name) or draw(*of))
    monkeypatch.setattr(build, "_drawing_threads", lambda device: 3)
    three = dict(build.build_model(runs).named_parameters())
    assert all(torch.equal(three[name], value) for name, value in one.items())
    assert len(calls) == 2 * len(one) and "MainThread" not in calls  # each seed once
    assert not torch.equal(one["embedding.weight"][0], one["embedding.weight"][1])


def test_an_error_in_a_thread_that_draws_is_raised(make_run, monkeypatch):
    def fails(name, *_):
        raise MemoryError(name)

    monkeypatch.setattr(build, "_drawing_threads", lambda device: 2)
    monkeypatch.setattr(build, "_base_values", fails)
    with pytest.raises(MemoryError, match="proj"):
        build.build_model([make_run()])


def test_what_is_drawn_ahead_is_what_the_next_model_starts_from(make_run, monkeypatch):
    runs = [make_run("sp", seed=seed, width=32) for seed in (3, 4)]
    plain = dict(build.build_model(runs).named_parameters())
    drawn = []
    draw = build._base_values
    monkeypatch.setattr(
        build, "_base_values", lambda name, module, run: drawn.append((run.seed, name)) or draw(name, module, run)
    )
    build.draw_ahead([make_run("sp", seed=9, width=32)], "cpu")  # nobody takes these
    build.draw_ahead(runs, "cpu")
    model = dict(build.build_model([make_run("gdn-mup", seed=3, width=32), *runs]).named_parameters())
    assert all(torch.equal(model[name][1:], value) for name, value in plain.items())
    assert len(drawn) == len(set(drawn)), "each once"
    assert build._ahead == {}
    monkeypatch.setattr(build, "AHEAD_BYTES", 20_000)
    build.draw_ahead(runs, "cpu")
    assert 0 < len(build._ahead) < 2 * len(plain)
    other = dict(build.build_model([make_run("sp", seed=3, width=16)]).named_parameters())
    assert other["embedding.weight"].shape[2] == 16, "another width takes none of them"
    build._ahead.clear()
