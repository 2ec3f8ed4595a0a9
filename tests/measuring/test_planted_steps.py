"""Updates that are not what was declared, from a patch of the code to one finding that names it; and right ones."""

import pytest
from planted_steps import (
    around,
    checked,
    clips_by_value,
    coupled,
    decay_on_all,
    found,
    frozen,
    heavy_ball,
    lent,
    no_bias_correction,
    other_factors,
    other_schedule,
    other_spec,
    shared_state,
    times,
    twice,
)

INDEPENDENT = {"weight_decay": 0.1, "decay_mode": "independent"}
BOTH = ("adamw", "sgd")
OTHERWISE = "moved otherwise than table and optimizer give"
# patch, optimizers, what differs in the check, how the finding begins, what it must say, and its advice
FAULTS = {
    "sign": (times(-1.0), BOTH, {}, "every weight moved by x-1.00 of what", "at every width, from step 1 on", "sign"),
    "constant": (times(1.05), BOTH, {}, "every weight moved by x1.05 ", "", "look at"),
    "a hundredth": (times(1.01), BOTH, {}, "every weight moved by x1.01 ", "", "look at"),
    "one layer": (
        times(0.5, lambda o, g: g.layer == 1), BOTH, {}, "every weight of layer 1 moved by x0.50", "every width", ""
    ),
    "one weight": (times(0.5, lambda o, g: g.site == "q_proj"), BOTH, {}, "q_proj moved by x0.50 ", "", ""),
    "one weight of one layer": (
        times(2.0, lambda o, g: (g.site, g.layer) == ("v_proj", 0)), BOTH, {},
        "v_proj of layer 0 moved by x2.00", "", "",
    ),
    "one width": (
        times(0.5, lambda o, g: o.spec.width == 32), BOTH, {},
        "every weight moved by x0.50", ", width 32, from step 1", "",
    ),
    "from a step on": (
        times(0.5, lambda o, g: o.steps_taken > 1), BOTH, {}, "every weight moved by x0.50", "from step 2 on", ""
    ),
    "scheduler": (
        other_schedule(lambda s: 0.3 if s else 1.0), BOTH, {}, "every weight moved by x0.30", "from step 2 on", ""
    ),
    "lone warm-up": (
        other_schedule(lambda s: min((s + 1) / 2, 1.0)), BOTH, {}, "every weight moved by x0.50", "at step 1", ""
    ),
    "warm-up left out": (
        other_schedule(lambda s: 1.0), BOTH, {"warmup_steps": 2, "steps": 4},
        "every weight moved by x2.00", "step 1", "",
    ),
    "rows": (frozen("q_proj", slice(4, 8)), BOTH, {}, "q_proj moved by x0.00", "rows 4 to 7 at width 32", "mask"),
    "column": (frozen("up_proj", slice(None), 3), BOTH, {}, "up_proj moved by x0.00", "column 3 at width 32", "mask"),
    "head": (
        frozen("k_proj", slice(None), slice(12, 24)), BOTH, {"widths": (32,)}, "k_proj moved by x0.00",
        "columns 12 to 23 (head 1), width 32", "mask",
    ),
    "block": (
        frozen("g_proj", slice(0, 4), slice(4, 8)), BOTH, {}, f"g_proj {OTHERWISE}", "rows 0 to 3 of columns 4 to 7", ""
    ),
    "gain": (frozen("norm1_gain", slice(3, 5)), BOTH, {}, "norm1_gain moved by x0.00", "values 3 to 4", ""),
    "never moves": (frozen("dt_bias"), BOTH, {}, "dt_bias moved by x0.00", "from step 1 on", "requires_grad"),
    "twice": (around(twice), BOTH, {}, "every weight moved by x2", "", "taken twice"),
    "another replica's gradient": (around(lent), BOTH, {}, f"every weight {OTHERWISE}", "", "whose gradient"),
    "shared state": (shared_state, BOTH, {}, "", OTHERWISE, "state"),
    "clipped by value": (clips_by_value, BOTH, {}, "", "moved", "look at"),
    "no bias correction": (no_bias_correction, ("adamw",), {}, "every weight moved by x0.45", "", "bias correction"),
    "beta1": (other_spec(beta1=0.8), ("adamw",), {}, f"every weight {OTHERWISE}", "from step 2 on", "betas"),
    "beta2": (other_spec(beta2=0.999), ("adamw",), {}, f"every weight {OTHERWISE}", "from step 2 on", "betas"),
    "eps": (other_spec(eps=1e-3), ("adamw",), {}, "", OTHERWISE, "eps"),
    "momentum": (other_spec(momentum=0.8), ("sgd",), {}, "every weight moved by x0.95", "", ""),
    "not Nesterov's": (heavy_ball, ("sgd",), {}, "every weight moved by x0.53", "", "Nesterov"),
    "base width": (
        other_factors(base_width=8), BOTH, {}, "", "moved as if the base width were 8 instead of 16", "base width"
    ),
    "one width's factors": (
        other_factors(base_width=lambda run: 8 if run.width == 32 else 16), BOTH, {}, "",
        "moved as if width 32 were 64", "base width",
    ),
    "no decay": (other_spec(weight_decay=0.0), BOTH, INDEPENDENT, "", "decayed by 0 where the table gives", "decay"),
    "decay doubled": (other_spec(weight_decay=0.2), BOTH, INDEPENDENT, "", "decayed by ", "decay"),
    "decay that is coupled": (coupled, BOTH, INDEPENDENT, "", "decayed by 0.1 where the table gives 0.", "lr x"),
    "decay on gains and scalars": (
        decay_on_all, BOTH, INDEPENDENT, "A_log, dt_bias, final_norm_gain", "decayed by", ""
    ),
}  # fmt: skip
PLANTED = [(name, optimizer) for name, (_, optimizers, *_) in FAULTS.items() for optimizer in optimizers]


@pytest.mark.parametrize(("name", "optimizer"), PLANTED)
def test_a_fault_of_the_code_is_one_finding_that_names_it(corpus, make_run, monkeypatch, name, optimizer):
    plant, _, changes, begins, says, advises = FAULTS[name]
    plant(monkeypatch)
    check = checked(make_run, corpus, optimizer=optimizer, **changes)
    (finding,) = found(*check)
    assert finding.effect == "fail"
    assert finding.text.startswith(begins)
    assert says in finding.text
    assert advises in finding.advice
    assert "\n" not in str(finding)
    # what the text says is there to be read by a program as well
    assert finding.widths
    assert all(str(width) in finding.text or "every width" in finding.text for width in finding.widths)
    assert finding.layers
    assert finding.steps
    assert finding.sites


@pytest.mark.parametrize("name", ["one layer", "one weight", "one weight of one layer", "one width", "from a step on"])
def test_layers_widths_steps_and_sites_are_those_of_the_fault(corpus, make_run, monkeypatch, name):
    FAULTS[name][0](monkeypatch)
    (finding,) = found(*checked(make_run, corpus))
    expected = {
        "one layer": {"layers": (1,), "widths": (16, 32), "steps": (1, 2)},
        "one weight": {"sites": ("q_proj",), "layers": (0, 1)},
        "one weight of one layer": {"sites": ("v_proj",), "layers": (0,)},
        "one width": {"widths": (32,), "layers": (-1, 0, 1)},
        "from a step on": {"steps": (2,)},
    }[name]
    assert {field: getattr(finding, field) for field in expected} == expected


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
@pytest.mark.parametrize("optimizer", BOTH)
@pytest.mark.parametrize(
    "changes",
    [{}, INDEPENDENT, {"weight_decay": 0.1, "clip": 0.1}, {"dtype": "bfloat16"}, {"warmup_steps": 2, "steps": 4}],
    ids=str,
)
def test_right_code_has_no_finding(corpus, make_run, optimizer, mode, changes):
    for table in ("gdn-mup", "sp"):
        assert found(*checked(make_run, corpus, optimizer=optimizer, mode=mode, parametrization=table, **changes)) == []


def test_some_seeds_are_said_to_be_some(corpus, make_run, monkeypatch):
    def change(optimizer, group, go, gradient, lr):
        one = lr.clone()
        one[1] *= 0.5
        go(lr=one)

    around(change)(monkeypatch)
    (finding,) = found(*checked(make_run, corpus, widths=(16,), seeds=3))
    assert finding.text.endswith(", 1 of 3 seeds")


def test_two_faults_are_two_findings(corpus, make_run, monkeypatch):
    frozen("q_proj", slice(4, 8))(monkeypatch)
    times(2.0, lambda optimizer, group: group.site == "embedding")(monkeypatch)
    texts = {finding.text.partition(" of what")[0] for finding in found(*checked(make_run, corpus))}
    assert texts == {"q_proj moved by x0.00", "embedding moved by x2.00"}
