"""torch's Muon under its two ways to adjust lr: the audit tells them apart, and what would mend each."""

import pytest
import torch
from own_models import SETTINGS, Transformer, split

import mupcheck
from mupcheck.audit.run import Plan, audit
from mupcheck.audit.user_file import model_of

GROWING = ("q", "up", "o", "down")
FIXED = ("k", "v")  # d -> two heads of keys and values at every width


def build(width):
    return Transformer(width, mup=True, base=32, kv=32)


def slopes(tmp_path, adjust):
    def optimizer(model):
        hidden, rest = split(model)
        muon = torch.optim.Muon(hidden, lr=2**-10, weight_decay=0.0, adjust_lr_fn=adjust)
        return muon, torch.optim.AdamW(rest, lr=2**-10, **SETTINGS)

    user = model_of({"build": build, "optimizer": optimizer}, name="mine")
    audit(Plan(user, (32, 64, 128, 256), (0, 1, 2, 3), record=(0, 1, 3), out=tmp_path))
    (judgement,) = mupcheck.judge(mupcheck.load_results(tmp_path))
    assert judgement.title == "audit (muon+adamw)"
    rows = judgement.pooled[judgement.pooled["kind"] == "effective_update"]
    rows = rows[rows["stat"] == "rms"].set_index("site")["slope"]
    return judgement, {name: rows[f"layers.*.{name}.weight"] for name in (*GROWING, *FIXED)}


@pytest.mark.parametrize(("adjust", "growing", "fixed"), [("original", 0.0, 0.5), ("match_rms_adamw", 0.5, 1.0)])
def test_the_audit_tells_muons_adjust_modes_apart(tmp_path, adjust, growing, fixed):
    """sqrt(max(1, out/in)) is right where both sides grow; 0.2 sqrt(max(out, in)) is m^1/2 more than that."""
    judgement, found = slopes(tmp_path, adjust)
    # at these widths, 4 seeds: within 0.1
    assert {name: found[name] for name in GROWING} == pytest.approx(dict.fromkeys(GROWING, growing), abs=0.15)
    assert {name: found[name] for name in FIXED} == pytest.approx(dict.fromkeys(FIXED, fixed), abs=0.15)
    assert judgement.verdict == "fail"
    by_change = {cause.change: cause for cause in judgement.causes}
    assert {fixed} == {change for change, cause in by_change.items() if {"layers.*.k", "layers.*.v"} & {*named(cause)}}
    if growing:
        assert "layers.*.q" in by_change[growing].text
        assert "lr x m^-1/2" in by_change[growing].remedy
    else:
        assert set(named(judgement.causes[0])) == {"layers.*.k", "layers.*.v"}


def named(cause):
    return cause.remedy.partition(" lr x ")[0].removeprefix("give ").split(", ")
