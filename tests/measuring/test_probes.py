"""What is recorded against the model written out by hand, and that looking changes nothing."""

import math

import pytest
import torch
from model_by_hand import (
    CONVS,
    ENDS,
    INSIDE,
    LAYER_WEIGHTS,
    MATRICES,
    UNREAD,
    by_hand,
    convolved,
    lr_of,
    rms,
    values,
    watched,
)

from mupcheck.measuring.probes import Probe
from mupcheck.model.build import build_model, parameter_groups
from mupcheck.theory.parametrization import OPTIMIZERS
from mupcheck.training.optim import make_optimizer
from mupcheck.training.train import train


@pytest.fixture(scope="module", params=["gdn-mup-code head-dim", "gdn-mup heads tied"])
def recorded(request, corpus, make_run):
    """Two replicas at twice the base width, with multipliers on o and logits, watched over 3 steps, and by hand."""
    name, mode, *tied = request.param.split()
    shape = {"mode": mode, "tied": bool(tied), "width": 32, "n_layers": 2, "dtype": "float64", "logit_scale": 3.0}
    runs = [make_run(table, seed=seed, lr=2.0**-6, **shape) for seed, table in ((0, name), (1, "sp"))]
    rows, weights, tokens = watched(runs, corpus, 3)
    hand = [[by_hand(weights[s][r], run, tokens[r]) for r, run in enumerate(runs)] for s in range(4)]
    return runs, rows, weights, tokens, hand


# unit_norm adds 1e-6 to |q|^2, which theory.md does not have; the rest is float64
NEAR = {"rel": 2e-5, "abs": 1e-12}


def test_activations_are_those_of_the_model_by_hand(recorded):
    runs, rows, _, _, hand = recorded
    for step in (0, 3):
        for r in range(len(runs)):
            at = hand[step][r][0]
            measured = {place: value[r] for place, value in values(rows, step, "activation").items()}
            assert measured == pytest.approx({place: rms(x) for place, x in at.items()}, **NEAR)
            mean_abs = {place: value[r] for place, value in values(rows, step, "activation", "mean_abs").items()}
            assert mean_abs == pytest.approx({place: float(x.abs().mean()) for place, x in at.items()}, **NEAR)
    assert measured != pytest.approx({place: rms(x) for place, x in hand[0][r][0].items()}, rel=1e-3)


def test_activation_updates_are_differences_on_one_batch(recorded):
    runs, rows, _, _, hand = recorded
    assert values(rows, 0, "activation_update") == {}
    for r in range(len(runs)):
        first, last = hand[0][r][0], hand[3][r][0]
        measured = {place: value[r] for place, value in values(rows, 3, "activation_update").items()}
        expected = {place: rms(x - first[place]) for place, x in last.items()}
        assert measured == pytest.approx(expected, rel=1e-3, abs=1e-9)  # a difference of what is near to 2e-5
        assert min(expected.values()) > 1e-6  # each of them moved


def test_activation_gradients_are_autograds(recorded):
    runs, rows, weights, tokens, _ = recorded
    for r, run in enumerate(runs):
        leaves = {place: w.clone().requires_grad_() for place, w in weights[2][r].items()}
        at, _, loss = by_hand(leaves, run, tokens[r])
        loss.backward()
        measured = {place: value[r] for place, value in values(rows, 2, "activation_grad").items()}
        expected = {place: rms(x.grad) for place, x in at.items() if place[1] not in UNREAD}
        assert measured == pytest.approx(expected, rel=1e-4)
        expected = {place: rms(w.grad) for place, w in leaves.items()}
        measured = {place: value[r] for place, value in values(rows, 2, "weight_grad").items()}
        assert measured == pytest.approx(expected, rel=1e-4)


def effective(change, place, inputs, run, tokens):
    """Return what the change of a weight does to its input; multipliers that follow the weight included."""
    site = place[1]
    if site == "embedding":
        return change[tokens[:, :-1]]
    if site in CONVS:
        return convolved(inputs[place], change)
    if site in MATRICES | {"readout"}:
        after = {"o_proj": "mixer_out", "readout": "logits"}.get(site)
        scale = run.logit_scale if after == "logits" else 1.0
        return inputs[place] @ change * scale * (run.m ** run.table.multiplier(after, mode=run.mode) if after else 1.0)
    return change


def test_effective_updates_are_the_change_applied_to_the_current_input(recorded):
    runs, rows, weights, tokens, hand = recorded
    for r, run in enumerate(runs):
        _, inputs, _ = hand[3][r]
        changes = {place: w - weights[0][r][place] for place, w in weights[3][r].items()}
        measured = {place: value[r] for place, value in values(rows, 3, "effective_update").items()}
        expected = {p: rms(effective(change, p, inputs, run, tokens[r])) for p, change in changes.items()}
        assert measured == pytest.approx(expected, **NEAR)
        # negative control: the input of another step, and the whole table of embeddings, give other sizes
        stale = {p: rms(effective(change, p, hand[0][r][1], run, tokens[r])) for p, change in changes.items()}
        moving = {p for p in measured if not math.isclose(measured[p], stale[p], rel_tol=1e-4)}
        assert {site for _, site in moving} >= (MATRICES | CONVS)
        assert measured[-1, "embedding"] != pytest.approx(rms(changes[-1, "embedding"]), rel=1e-4)


def test_weights_and_their_updates_are_measured_as_they_are(recorded):
    runs, rows, weights, _, _ = recorded
    for r in range(len(runs)):
        now, before = weights[3][r], weights[0][r]
        expected = {place: rms(w) for place, w in now.items()}
        assert {p: v[r] for p, v in values(rows, 3, "weight").items()} == pytest.approx(expected, rel=1e-9)
        change = {place: rms(w - before[place]) for place, w in now.items()}
        assert {p: v[r] for p, v in values(rows, 3, "weight_update").items()} == pytest.approx(change, rel=1e-9)
        ratio = {place: change[place] / expected[place] for place in now}
        relative = values(rows, 3, "diagnostic", "relative_update")
        assert {p: v[r] for p, v in relative.items()} == pytest.approx(ratio, rel=1e-9)
        for place, value in values(rows, 3, "weight_update", "spectral").items():
            norm = float(torch.linalg.matrix_norm(now[place] - before[place], ord=2))
            assert norm * 0.99 <= value[r] <= norm * (1 + 1e-9)


def test_diagnostics_are_what_they_say(recorded):
    runs, rows, _, _, hand = recorded
    for r, run in enumerate(runs):
        at = hand[3][r][0]
        for layer in range(2):
            mean_square = at[layer, "o_raw"].square().mean(-1).flatten()
            ratio = values(rows, 3, "diagnostic", "o_norm_eps_ratio")[layer, "o_raw"][r] * run.norm_eps
            # between the two in the middle a median may choose
            low, high = (float(mean_square.sort().values[len(mean_square) // 2 + i]) for i in (-1, 0))
            assert low * (1 - 1e-4) <= ratio <= high * (1 + 1e-4)
            for site in ("alpha", "beta"):
                x = at[layer, site]
                share = float(((x < 0.01) | (x > 0.99)).double().mean())
                assert values(rows, 3, "diagnostic", f"{site}_saturated")[layer, site][r] == pytest.approx(share)
        # after one step sqrt(v), its bias removed, is the first gradient
        gradients, eps = values(rows, 0, "weight_grad"), values(rows, 1, "diagnostic", "realised_eps")
        expected = {place: value[r] / eps[place][r] for place, value in gradients.items()}
        measured = {p: v[r] for p, v in values(rows, 1, "diagnostic", "adam_eps_ratio").items()}
        assert measured == pytest.approx(expected, rel=1e-9)


def test_saturated_gates_are_seen(corpus, make_run):
    rows, _, _ = watched([make_run(projection_std=50.0)], corpus, 0)
    assert values(rows, 0, "diagnostic", "beta_saturated")[0, "beta"][0] > 0.9
    assert values(rows, 0, "diagnostic", "alpha_saturated")[0, "alpha"][0] > 0.9


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_site_and_weight_of_the_contract_is_recorded_and_no_other(corpus, make_run, optimizer, tied):
    rows, _, _ = watched([make_run(optimizer=optimizer, tied=tied, n_layers=2)], corpus, 1)
    layers = (0, 1)
    graded = {(i, s) for i in layers for s in INSIDE} | {(-1, s) for s in ENDS}
    sites = graded | {(i, s) for i in layers for s in UNREAD}
    ends = {"embedding", "final_norm_gain"} | (set() if tied else {"readout"})
    weights = {(i, s) for i in layers for s in LAYER_WEIGHTS} | {(-1, s) for s in ends}
    for step in (0, 1):
        assert set(values(rows, step, "activation")) == sites
        assert set(values(rows, step, "activation", "mean_abs")) == sites
        assert set(values(rows, step, "activation_grad")) == graded
        assert set(values(rows, step, "weight")) == set(values(rows, step, "weight_grad")) == weights
        for name in ("realised_lr", "realised_wd", "realised_eps"):
            assert set(values(rows, step, "diagnostic", name)) == weights
        assert set(values(rows, step, "diagnostic", "o_norm_eps_ratio")) == {(i, "o_raw") for i in layers}
        for site in ("alpha", "beta"):
            assert set(values(rows, step, "diagnostic", f"{site}_saturated")) == {(i, site) for i in layers}
    assert set(values(rows, 1, "activation_update")) == sites
    for kind in ("weight_update", "effective_update"):
        assert set(values(rows, 1, kind)) == weights
        assert values(rows, 0, kind) == {}
    assert set(values(rows, 1, "diagnostic", "relative_update")) == weights
    hidden = {(i, s) for i in layers for s in MATRICES}
    assert hidden <= set(values(rows, 1, "weight_update", "spectral")) <= weights
    assert set(values(rows, 1, "diagnostic", "adam_eps_ratio")) == (weights if optimizer == "adamw" else set())
    kinds = {"activation", "activation_update", "activation_grad", "weight", "weight_update", "weight_grad"}
    assert {row.kind for row in rows} == kinds | {"effective_update", "diagnostic"}


def test_activations_alone_are_the_same_and_nothing_else(corpus, make_run):
    runs = [make_run(seed=0), make_run(seed=1)]
    full, _, _ = watched(runs, corpus, 2)
    alone, _, _ = watched(runs, corpus, 2, full=False)
    assert {(row.kind, row.stat) for row in alone} == {("activation", "rms")}
    assert all(values(alone, step, "activation") == values(full, step, "activation") for step in range(3))


# --- looking changes nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["coord", "lr"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_recording_changes_no_result_bit_for_bit(corpus, make_run, device, optimizer, kind):
    def trained(probes, lr=lr_of(optimizer), record=(0, 1, 3, 4)):
        options = {"optimizer": optimizer, "kind": kind, "width": 32, "weight_decay": 0.1, "clip": 1.0, "n_layers": 2}
        runs = [make_run(name, lr=lr, record=record, probes=probes, **options) for name in ("sp", "gdn-mup")]
        rows = list(train(runs, corpus, device=device))
        assert len(rows) == 5
        assert any(row.coords for row in rows) == (probes != "none")
        return [(row.loss, row.grad_norm, row.clipped) for row in rows]

    plain = trained("none")
    # a full probe hooks what fused kernels leave out: on a GPU all steps of such an lr sweep are torch's operations
    alone = trained("full", record=(4,)) if (device, kind) == ("cuda", "lr") else plain
    assert trained("full") == alone
    assert trained("activations") == plain
    assert trained("none", lr=lr_of(optimizer) * (1 + 1e-6)) != plain  # equality would see a change this small


def test_a_recorded_step_is_moved_to_the_host_in_one_copy(corpus, make_run, monkeypatch):
    """A tensor's way to the host is one of these methods, wherever it lies."""
    runs = [make_run(n_layers=2), make_run(n_layers=2, seed=1)]
    model = build_model(runs)
    optimizer = make_optimizer(parameter_groups(model, runs), runs)
    probe, scale = Probe(model), torch.ones(2, dtype=torch.float64)
    tokens = torch.zeros(2, 2, 17, dtype=torch.long)
    copies = []
    for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"):

        def counted(self, *args, original=getattr(torch.Tensor, name), name=name, **options):
            copies.append(name)
            return original(self, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, counted)
    for step in range(2):
        probe.start()
        model.loss(tokens).sum().backward()
        probe.finish(optimizer, scale)
        assert copies == []
        assert len(probe.rows(step)) > 100
        assert copies == ["tolist"]
        copies.clear()
        optimizer.step(scale, optimizer.gradient_norm(), torch.ones(2, dtype=torch.bool))
        copies.clear()


def test_a_replica_that_is_not_finite_leaves_the_others_measures_alone(corpus, make_run):
    healthy = make_run(width=32)
    alone, _, _ = watched([healthy, make_run(width=32, seed=1)], corpus, 3)
    beside, _, _ = watched([healthy, make_run(width=32, lr=1e30)], corpus, 3)
    assert [row[:5] for row in beside] == [row[:5] for row in alone]
    assert [row.values[0] for row in beside] == [row.values[0] for row in alone]
    sick = values(beside, 3, "weight_update", "spectral")
    assert all(math.isnan(value[1]) for value in sick.values())
