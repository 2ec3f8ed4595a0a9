"""Causes that say where: faults of one layer, and of later steps, planted in the code and in slopes."""

import pytest
from planted_code import SETTINGS, judged, train_check
from test_diagnosis import GDN_MUP, changed, slopes_of

from mupcheck.coordinates.diagnosis import diagnose
from mupcheck.coordinates.readings import departures, from_step_on
from mupcheck.model import build
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import Role
from mupcheck.training import train as training

ENOUGH = {"seeds": 6, "record": (0, 1, 2, 4)}
make_optimizer = training.make_optimizer


def overwritten(sites, power, *, layer=None, from_step=0, hidden=False):
    """Return an optimizer whose lr of some weights carries an extra m^power, in one layer or from a step on.

    What it says of itself is what it does, or, hidden, what it should have done.
    """

    def make(groups, runs):
        made = make_optimizer(groups, runs)
        step = made.step

        def stepped(*args):
            if made.steps_taken == from_step:
                for i, group in enumerate(made.groups):
                    if group.site in sites and layer in (None, group.layer):
                        made.lr[i] = made.lr[i] * runs[0].m ** power
            return step(*args)

        made.step = stepped
        if hidden:
            made.realised = make_optimizer(groups, runs).realised
        return made

    return make


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_an_lr_that_is_wrong_in_one_layer_is_named_with_it(optimizer, mode, monkeypatch):
    sites = ("v_proj",) if optimizer == "adamw" else ("o_proj",)
    monkeypatch.setattr(training, "make_optimizer", overwritten(sites, 1.0, layer=1, hidden=True))
    found = judged(train_check(optimizer=optimizer, mode=mode, **ENOUGH))
    assert found.verdict == "fail"
    cause = found.causes[0]
    assert (cause.row, cause.change, cause.layers) == (f"hidden, lr ({optimizer})", 1.0, (1,)), found.causes
    assert f"the {optimizer} lr of {sites[0]} in layer 1 carries an extra m^+1" in cause.text
    assert "the code does not follow it" in cause.text
    followed = {finding.text.split()[0]: finding.layers for finding in found.findings if finding.name == "not followed"}
    assert followed == {sites[0]: (1,)}


INITS = list(zip(["v_proj", "down_proj", "k_conv1d", "a_proj"], SETTINGS, strict=True))


@pytest.mark.parametrize(("site", "setting"), INITS)
def test_an_init_that_is_wrong_in_one_layer_is_named_with_it(site, setting, monkeypatch):
    base_values = build._base_values

    def wrong(name, module, run):
        there = name.startswith("blocks.0") and name.endswith(site)
        return base_values(name, module, run) * (run.m**0.5 if there else 1)

    monkeypatch.setattr(build, "_base_values", wrong)
    optimizer, mode = setting
    found = judged(train_check(optimizer=optimizer, mode=mode, **ENOUGH))
    assert found.verdict == "fail"
    blamed = {cause.row.partition(",")[0]: cause for cause in found.causes if cause.row.endswith("init")}
    sited = {finding.sites: finding.layers for finding in found.findings if finding.name == "initial size"}
    assert sited == {(site,): (0,)}
    if site in ("v_proj", "down_proj"):
        assert (blamed["hidden"].change, blamed["hidden"].layers) == (0.5, (0,))


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_an_lr_that_is_overwritten_after_the_first_step_is_named_with_the_step(optimizer, mode, hidden, monkeypatch):
    sites = [site for site, of in PARAMETERS.items() if of.role is Role.HIDDEN]
    monkeypatch.setattr(training, "make_optimizer", overwritten(sites, 1.0, from_step=1, hidden=hidden))
    found = judged(train_check(optimizer=optimizer, mode=mode, seeds=6, record=(0, 1, 2, 4, 8)))
    assert found.verdict == "fail"
    said = {finding.sites[0]: finding for finding in found.findings if finding.name == "realised"}
    assert set(said) == (set() if hidden else set(sites))
    if not hidden:
        assert said["v_proj"].steps == (2, 4, 8) and said["v_proj"].widths == (64, 128)
        assert said["v_proj"].text.endswith("from step 2 on")
    cause = found.causes[0]
    assert cause.row == f"hidden, lr ({optimizer})" and cause.steps == (2,), found.causes
    assert "from step 2 on" in cause.text
    assert cause.change >= 0.5


def test_where_all_layers_are_off_none_is_named():
    wrong = changed(GDN_MUP, Role.HIDDEN, lr=1.0)
    for optimizer, mode in SETTINGS:
        # readings of one layer scatter by up to 0.13 then, as measured (4 seeds, widths 32-160, CPU)
        slopes = slopes_of(wrong, optimizer, mode, noise=0.05)
        for cause in diagnose(slopes, slopes, optimizer=optimizer, mode=mode, tied=False, table=GDN_MUP):
            assert cause.layers == cause.steps == ()
        off = list(departures(slopes, GDN_MUP, optimizer=optimizer, mode=mode, tied=False))
        assert off and all(each.layers == () for each in off)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("by", [-0.5, 0.5, 1.0])
def test_half_an_exponent_in_one_of_two_layers_is_read_whole(layer, by):
    for optimizer, mode in SETTINGS:
        slopes = slopes_of(GDN_MUP, optimizer, mode, noise=0.05)
        one = (slopes["site"] == "up_proj") & (slopes["layer"] == layer) & (slopes["step"] == 1)
        one &= slopes["kind"].isin(["weight_update", "effective_update"])
        slopes.loc[one, "slope"] += by
        slopes.loc[one, "verdict"] = "fail"
        (cause,) = diagnose(slopes, slopes, optimizer=optimizer, mode=mode, tied=False, table=GDN_MUP)
        assert (cause.row, cause.change, cause.layers) == (f"hidden, lr ({optimizer})", by, (layer,))
        (off,) = departures(slopes, GDN_MUP, optimizer=optimizer, mode=mode, tied=False)
        assert (off.site, off.field, off.layers) == ("up_proj", "lr", (layer,))
        assert off.read - off.given == pytest.approx(by, abs=0.15)


def test_nothing_departs_in_a_right_table_with_the_scatter_of_gates():
    for optimizer, mode in SETTINGS:
        slopes = slopes_of(GDN_MUP, optimizer, mode, noise=0.07)
        assert list(departures(slopes, GDN_MUP, optimizer=optimizer, mode=mode, tied=False)) == []
        assert from_step_on(slopes, optimizer=optimizer) == {}
