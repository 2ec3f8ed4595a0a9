"""Under SGD a parameter that is as large at every width may have a gradient of random signs, d^-1/2, at first."""

import pandas as pd
import pytest
from planted_slopes import make_coords, make_runs

from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.theory.required import OWN, required

UPDATE = ("effective_update", "rms", "norm.weight", 0, 3)


def judged(slope, *, optimizer="sgd", grows=False):
    runs = make_runs(mode=OWN, optimizer=optimizer)
    coords = make_coords(runs, {UPDATE: slope})
    counts = runs[["run_id"]].assign(
        layer=0, site="norm.weight", kind="diagnostic", stat="n_values", step=0, value=runs["width"] if grows else 16.0
    )
    both = pd.concat([coords, counts], ignore_index=True)
    verdicts = {fit_slopes(runs, both, pooled=pooled, tables={})["verdict"].item() for pooled in (False, True)}
    assert len(verdicts) == 1
    return verdicts.pop()


@pytest.mark.parametrize("slope", [0.0, -0.25, -0.53])
def test_between_random_and_aligned_signs_it_passes(slope):
    assert judged(slope) == "pass"


@pytest.mark.parametrize("slope", [-1.0, 0.5])
def test_what_lies_beyond_fails(slope):
    assert judged(slope) == "fail"


def test_what_grows_or_is_trained_by_adamw_is_required_at_0():
    assert judged(-0.53, optimizer="adamw") == "fail"
    assert judged(-0.6, grows=True) == "fail"
    assert judged(0.0, grows=True) == "pass"


def test_it_is_required_of_a_user_s_own_model_alone():
    given = {"optimizer": "sgd", "mode": "heads", "tied": False, "step": 3}
    assert required(*UPDATE[:2], "q_proj", **given, fixed=True) == required(*UPDATE[:2], "q_proj", **given)
