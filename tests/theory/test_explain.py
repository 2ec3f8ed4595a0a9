"""Explanations agree with the model, with what is required and with what is measured, and say it in words."""

from itertools import product

import pytest

from mupcheck.model.build import named_weights
from mupcheck.theory.explain import (
    NOT_JUDGED,
    PLACES_OF_ACTIVATIONS,
    PLACES_OF_WEIGHTS,
    ROLES,
    SIGNS,
    SIGNS_OF_KINDS,
    STEPS,
    explain,
)  # fmt: skip
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, TABLES, Role
from mupcheck.theory.required import ACTIVATIONS, KINDS, WEIGHTS, required
from mupcheck.training.train import train

SITES = sorted({*ACTIVATIONS, *WEIGHTS})


def quantities(answer):
    """Every (kind, stat, step, optimizer, readout, mode) of an explanation with its cell."""
    for row in answer.expectations:
        for key in product(row.stats, row.steps, row.optimizers, row.readouts):
            for cell in row.cells:
                yield (row.kind, *key, cell.mode), cell


@pytest.mark.parametrize("site", SITES)
def test_what_is_said_is_what_is_required(site):
    for answer in explain(site):
        found = list(quantities(answer))
        assert len(dict(found)) == len(found)  # folding loses and repeats nothing
        for (kind, stat, step, optimizer, readout, mode), cell in found:
            need = required(
                kind, stat, site, optimizer=optimizer, mode=mode, tied=readout == "tied", step=STEPS.index(step)
            )
            assert cell.required == need
            assert cell.why == need.source if need else cell.why


def test_everything_that_a_check_measures_is_explained(corpus, make_run):
    options = {"n_layers": 1, "kind": "coord", "record": (0, 1), "steps": 1, "probes": "full"}
    for tied, optimizer in product((False, True), OPTIMIZERS):
        rows = train([make_run(tied=tied, optimizer=optimizer, **options)], corpus)
        coords = [coord for row in rows for coord in row.coords if coord.kind in KINDS]
        measured = {(c.site, c.kind, c.stat, STEPS[c.step]) for c in coords}
        readout = "tied" if tied else "untied"
        said = {
            (site, *key[:3])
            for site in SITES
            for answer in explain(site, optimizers=[optimizer])
            for key, _ in quantities(answer)
            if key[4] == readout
        }
        assert said == measured


def test_places_are_those_of_the_model(make_run):
    from mupcheck.model import build_model

    assert set(PLACES_OF_ACTIVATIONS) == set(ACTIVATIONS)
    assert set(PLACES_OF_WEIGHTS) == set(WEIGHTS)
    roles = {site: weight.role for site, _, weight in named_weights(build_model([make_run()], "meta"))}
    assert {site: place.role for site, place in PLACES_OF_WEIGHTS.items()} == roles
    for place in PLACES_OF_ACTIVATIONS.values():
        assert place.weights and set(place.weights) <= set(WEIGHTS)
    assert set(ROLES) == set(Role)
    assert set(SIGNS) <= {*ACTIVATIONS, *WEIGHTS}
    assert set(SIGNS_OF_KINDS) <= set(KINDS)


def test_the_weights_of_an_activation_are_on_its_way(make_run, corpus):
    # changed after the draw, each changes the site that it is said to make
    from mupcheck.model import build_model

    for site, place in PLACES_OF_ACTIVATIONS.items():
        for name in place.weights:
            tied = site == "logits" and name == "embedding"
            run = make_run(tied=tied)
            assert not same_at(site, build_model([run]), name), (site, name)
    assert same_at("norm1", build_model([make_run()]), "o_proj")  # behind it


def same_at(site, model, weight):
    import torch

    tokens = torch.arange(8)[None, None]
    seen = []
    (module,) = (module for name, module in model.named_modules() if name.endswith(f"sites.{site}"))
    module.register_forward_hook(lambda _m, _a, out: seen.append(out.detach().clone()))
    model(tokens)
    (change,) = (w for s, layer, w in named_weights(model) if s == weight and layer <= 0)
    with torch.no_grad():
        change.weight.mul_(torch.linspace(0.5, 1.5, change.weight.numel()).view_as(change.weight))
    model(tokens)
    return torch.equal(*seen)


def test_every_reason_is_used_and_none_is_missing():
    cells = [cell for site in SITES for answer in explain(site) for _, cell in quantities(answer)]
    used = {cell.why for cell in cells if not cell.required}
    assert {row.reason for row in NOT_JUDGED} == used  # nor is there any left to the last resort


def test_a_reason_is_not_given_for_what_is_judged():
    # a reason written for one mode or optimizer is not read out for another
    for site in SITES:
        for answer in explain(site):
            for (kind, _, step, optimizer, _, mode), cell in quantities(answer):
                if not cell.required:
                    assert not ("SGD" in cell.why and optimizer == "adamw"), (site, kind)
                    assert not ("heads" in cell.why and mode == "head-dim"), (site, kind)
                    assert not (cell.why.startswith("falls with the loss") and step == "0"), (site, kind)


def test_options_narrow_it():
    (wide,), (narrow,) = explain("o_proj"), explain("o_proj", optimizers=["sgd"], modes=["heads"])
    assert {key[3] for key, _ in quantities(wide)} == set(OPTIMIZERS)
    assert {(key[3], key[5]) for key, _ in quantities(narrow)} == {("sgd", "heads")}


def test_rules_are_those_of_the_table():
    table = TABLES["gdn-mup-code"]
    (answer,) = explain("mixer_out", tables=[table])
    assert [(row.role, row.optimizer, row.mode) for row in answer.rules] == [
        ("hidden", optimizer, mode) for optimizer in OPTIMIZERS for mode in MODES
    ]
    for row in answer.rules:
        rule = table.rule(Role.HIDDEN, optimizer=row.optimizer, mode=row.mode)
        assert (row.init, row.lr, row.eps, row.multiplier) == (rule.init, rule.lr, rule.eps, rule.multiplier)
    assert answer.multipliers == (("gdn-mup-code", "head-dim", -1), ("gdn-mup-code", "heads", -1))
    (weight,) = explain("o_proj", tables=[table])
    assert weight.multipliers == () and weight.rules == answer.rules


def test_a_name_of_both_is_explained_twice():
    assert [answer.thing for answer in explain("embedding")] == ["activation", "weight"]
    assert [answer.thing for answer in explain("z_beta")] == ["activation"]
    assert [answer.thing for answer in explain("A_log")] == ["weight"]


@pytest.mark.parametrize(
    ("given", "near"),
    [("qproj", "q_proj"), ("zbeta", "z_beta"), ("a_log", "A_log"), ("mixer", "mixer_out"), ("Z_ALPHA", "z_alpha")],
)
def test_an_unknown_site_is_answered_with_the_nearest(given, near):
    with pytest.raises(ValueError, match=f"unknown site '{given}'; nearest: .*{near}") as caught:
        explain(given)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="known: embedding, residual"):
        explain("xxxxxxxxx")


def test_words_are_short_and_plain():
    for site in SITES:
        for answer in explain(site):
            assert answer.what and answer.where and answer.signs
            assert all(len(text) < 240 and "{" not in text for _, text in answer.signs)


def test_what_one_table_implies_stands_beside_what_is_required():
    def cells(*names):
        (answer,) = explain("mixer_out", optimizers=("adamw",), tables=[TABLES[name] for name in names])
        return [cell for row in answer.expectations for cell in row.cells if row.steps == ("0",) or "0" in row.steps]

    assert all(cell.implied is None for cell in cells())
    assert all(cell.implied is None for cell in cells("sp", "gdn-mup"))  # of which of them?
    good, wrong = (
        next(cell for cell in cells(name) if cell.required and cell.required.high == 0) for name in ("gdn-mup", "sp")
    )
    assert good.implied == (0, 0)
    assert wrong.implied == (1, 1)
