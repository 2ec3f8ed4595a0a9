"""What a weight's lr, decay and eps really were, planted and seen where it is not the table's."""

import pytest
from planted_findings import GDN_MUP, find, make_runs, realised, the_only

from mupcheck.coordinates.starts import WEIGHT_UPDATES


def everyone(runs, field, **options):
    return [realised(runs, site, field, **options) for site in ("embedding", "q_proj", "o_proj", "A_log", "norm1_gain")]


@pytest.mark.parametrize("field", ["lr", "weight_decay", "eps"])
@pytest.mark.parametrize("factor", [2.0, 1 + 1e-4])
def test_a_group_that_was_overwritten_is_named(field, factor):
    runs = make_runs(weight_decay=0.1, decay_mode="independent")
    rows = everyone(runs, field)
    assert find(runs, *rows, table=GDN_MUP, name="realised") == []
    # as the same number for all widths would be: right at the base width, wrong from there on
    wrong = realised(runs, "gate_proj", field, lambda run: 1.0 if run["width"] == 64 else factor)
    found = the_only(find(runs, *rows, wrong, table=GDN_MUP, name="realised"))
    assert (found.effect, found.kinds, found.sites) == ("fail", WEIGHT_UPDATES, ("gate_proj",))
    assert (found.widths, found.layers, found.steps) == ((128, 256, 512), (), ())
    assert found.text.startswith(f"gate_proj had {field} ")
    assert "at width 512, where the table gives" in found.text
    assert "scheduler" in found.advice
    # nothing can be said without a table
    assert find(runs, *rows, wrong, name="realised") == []


def test_an_lr_of_zero_and_one_overwritten_later_are_named():
    runs = make_runs()
    frozen = realised(runs, "gate_proj", "lr", lambda run: 0.0)
    assert the_only(find(runs, *everyone(runs, "lr"), frozen, table=GDN_MUP)).sites == ("gate_proj",)
    later = [*everyone(runs, "lr", step=4), realised(runs, "gate_proj", "lr")]
    assert find(runs, *everyone(runs, "lr"), *later, table=GDN_MUP) == []
    overwritten = realised(runs, "gate_proj", "lr", lambda run: 3.0, step=4)
    found = the_only(find(runs, *everyone(runs, "lr"), *later, overwritten, table=GDN_MUP))
    assert found.sites == ("gate_proj",)
    assert found.steps == (4,) and found.text.endswith("from step 4 on")


def test_a_schedule_may_scale_all_alike_and_no_schedule_may_not():
    runs = make_runs(schedule="cosine", warmup_steps=0)
    scaled = [
        *everyone(runs, "lr", scale=0.5), *everyone(runs, "lr", scale=0.2, step=2),
        *everyone(runs, "lr", scale=0.0, step=3),
    ]  # fmt: skip
    assert find(runs, *scaled, table=GDN_MUP) == []
    constant = make_runs()
    found = find(constant, *everyone(constant, "lr", scale=0.5), table=GDN_MUP)
    assert {finding.sites for finding in found} == {
        (site,) for site in ("embedding", "q_proj", "o_proj", "A_log", "norm1_gain")
    }


def test_sgd_has_no_use_for_an_eps_and_gains_no_decay():
    runs = make_runs(optimizer="sgd", weight_decay=0.1, decay_mode="independent")
    strange_eps = [realised(runs, "q_proj", "eps", lambda run: run["width"])]
    undecayed = [realised(runs, "norm2_gain", "weight_decay", lambda run: 0.0)]
    assert find(runs, *strange_eps, *undecayed, *everyone(runs, "weight_decay"), table=GDN_MUP, name="realised") == []


def test_decay_that_fades_with_lr_fails_by_itself():
    for decay_mode, effects in (("coupled", {"fail", "warning"}), ("independent", {"warning"})):
        runs = make_runs(weight_decay=0.1, decay_mode=decay_mode)
        rows = [realised(runs, "q_proj", field) for field in ("lr", "weight_decay")]
        found = find(runs, *rows, table=GDN_MUP)
        assert {finding.effect for finding in found} == effects
        assert {finding.name for finding in found} == {"decay"}
    coupled = make_runs(weight_decay=0.1)
    rows = [realised(coupled, "q_proj", field) for field in ("lr", "weight_decay")]
    failed = find(coupled, *rows, table=GDN_MUP)[0]  # what counts most comes first
    assert failed.effect == "fail"
    assert "lr x weight decay of q_proj goes from 0.001 at width 64 to 0.00013 at 512" in failed.text
    assert failed.advice == "use --decay-mode independent, or --weight-decay 0 for this check"
    assert find(make_runs()) == []


def test_a_schedule_is_no_decay_that_fades():
    runs = make_runs(weight_decay=0.1, decay_mode="independent", schedule="cosine")
    rows = [
        realised(runs, "q_proj", field, scale=scale if field == "lr" else 1, step=step)
        for step, scale in ((1, 1.0), (2, 0.5), (3, 0.1))
        for field in ("lr", "weight_decay")
    ]
    assert {finding.effect for finding in find(runs, *rows, table=GDN_MUP)} == {"warning"}
