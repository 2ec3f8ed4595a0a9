"""Set-ups that are right, as users have them; `python correct_setups.py 3` audits each with three sets of seeds."""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from audited_models import (
    BASE,
    LR,
    Mixed,
    audited,
    gdn,
    hidden_and_rest,
    rows_of_mixed,
    said,
    transformer,
    under,
)  # fmt: skip
from own_models import SETTINGS, split


def decaying(lr=LR, decay=0.1):
    """AdamW with decay that is independent: lr x decay stays."""

    def optimizer(model):
        hidden, rest = split(model)
        groups = [{"params": hidden, "lr": lr / model.m, "weight_decay": decay * model.m}, {"params": rest, "lr": lr}]
        return torch.optim.AdamW(groups, **SETTINGS)

    return optimizer


def scheduled(model):
    optimizer = hidden_and_rest()(model)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.2 * step))


def muon(adjust, hidden=0.0, fixed=0.0):
    """torch's Muon for hidden matrices, AdamW for the rest; exponents of lr, `fixed` of those to BASE rows."""

    def optimizer(model):
        both, rest = split(model)
        groups = [
            {"params": [p for p in both if (p.shape[0] != BASE) is grows], "lr": LR * model.m**by}
            for grows, by in ((True, hidden), (False, fixed))
        ]  # fmt: skip
        given = {"weight_decay": 0.0, "adjust_lr_fn": adjust}
        parts = torch.optim.Muon([group for group in groups if group["params"]], lr=LR, **given)
        return parts, torch.optim.AdamW(rest, lr=LR, **SETTINGS)

    return optimizer


def fixed_heads(model):
    """SGD, two heads of keys and values at every width: their gradient sums over heads that grow, so lr m^-1/2."""
    hidden, rest = split(model)
    ids = {id(p) for layer in model.layers for p in (layer.k.weight, layer.v.weight)}
    groups = [
        {"params": [p for p in hidden if id(p) not in ids], "lr": 2**-4},
        {"params": [p for p in hidden if id(p) in ids], "lr": 2**-4 * model.m**-0.5},
        {"params": rest, "lr": 2**-4 * model.m},
    ]
    return torch.optim.SGD(groups)


SGD = {"opt": "sgd", "lr": 2**-4}
TREE = {"roles": rows_of_mixed}
SETUPS = {
    "transformer": (transformer(), hidden_and_rest()),
    "transformer, tied": (transformer(tied=True), hidden_and_rest()),
    "transformer, 4 layers": (transformer(layers=4), hidden_and_rest(lr=2**-11)),
    "transformer, one layer, small lr": (transformer(layers=1), hidden_and_rest(lr=2**-13)),
    "transformer, SGD": (transformer(), hidden_and_rest(0.0, 1.0, "sgd", lr=2**-4)),
    "transformer, SGD with momentum": (transformer(), hidden_and_rest(0.0, 1.0, "sgd", lr=2**-6, momentum=0.9)),
    "transformer, independent decay": (transformer(), decaying()),
    "transformer, a schedule": (transformer(), scheduled),
    "2 key heads at every width": (transformer(kv=32), hidden_and_rest()),
    "2 key heads at every width, SGD": (transformer(kv=32), fixed_heads),
    "Muon, original": (transformer(), muon("original")),
    "Muon, match_rms_adamw": (transformer(), muon("match_rms_adamw", -0.5)),
    "Muon, 2 key heads": (transformer(kv=32), muon("original", 0.0, -0.5)),
    "gdn, heads": (gdn(), under(gdn())),
    "gdn, head sizes": (gdn("head-dim"), under(gdn("head-dim"))),
    "gdn, tied": (gdn(tied=True), under(gdn(tied=True))),
    "gdn, heads, mup": (gdn(), under(gdn(), "mup", weight_decay=0.1)),
    "gdn, heads, SGD": (gdn(), under(gdn(), **SGD)),
    "experts, conv, low rank, fused rows": (Mixed, under(Mixed, "mup", **TREE)),
    "experts, conv, low rank, fused rows, SGD": (Mixed, under(Mixed, **SGD, **TREE)),
}  # fmt: skip


def audit_setup(name, folder, **options):
    build, optimizer = SETUPS[name]
    return audited(folder, build, optimizer, roles=rows_of_mixed if build is Mixed else None, **options)


def main(rounds, names):
    """Audit each, those that cannot be told again with seeds and widths added."""
    counts, began = {False: Counter(), True: Counter()}, time.time()
    for name in names:
        for i in range(rounds):
            for top_up in (False, True):
                with tempfile.TemporaryDirectory() as folder:
                    found = audit_setup(name, Path(folder), first=100 * i, top_up=top_up)
                counts[top_up][found.verdict] += 1
                if found.verdict == "pass":
                    counts[True]["pass"] += not top_up
                    break
                print(f"{name}, {i}, top-up {top_up}: {found.verdict}: {said(found)[:400]}", flush=True)
    print({f"top-up {key}": dict(of) for key, of in counts.items()}, f"{time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:] or SETUPS)
