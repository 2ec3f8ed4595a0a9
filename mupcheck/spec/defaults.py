"""Defaults of a sweep that depend on what is measured and where."""

from collections.abc import Mapping
from typing import Any


def sweep_defaults(given: Mapping[str, Any], *, device: str) -> dict[str, Any]:
    """Return the defaults that depend on what is measured and where; what is given wins over them."""
    optimizer, tied = str(given.get("optimizer", "adamw")), given.get("tied") is True
    if given.get("kind") == "coord":
        steps = given.get("steps")
        record = [step for step in (0, 1, 2, 3, 4, 8) if not isinstance(steps, int) or step <= steps]
        asked = given.get("record", record)
        last = (
            max((step for step in asked if isinstance(step, int)), default=1) if isinstance(asked, list | tuple) else 1
        )
        # Four widths from 32 decide at a tenth of what those from 64 cost. On a GPU small ones are no cheaper, but
        # under SGD a base width of 256 puts the slope of A_log at the tolerance (-0.23; head-dim, 96 seeds, H200).
        low = 32 if device == "cpu" else 256 if optimizer == "adamw" else 64
        # 16 seeds leave 24% of correct checks of three widths from 256 undecided, 24 leave 10%; on a GPU more seeds at
        # once cost little, and a second round what the first did
        few = isinstance(given.get("widths"), list | tuple) and len(given["widths"]) < 4
        seeds = 24 if few and device != "cpu" else 16
        # theory.md section 4: few tokens, one batch, no warm-up, clipping or decay, a readout that is not zero
        return {
            "name": "coord",
            "widths": tuple(low * 2**i for i in range(4)),
            "parametrizations": ("gdn-mup",),
            "lrs": (2.0**-12 if optimizer == "adamw" else 2.0**-6,),
            # the gate scalars' gradients scatter twice as much as all else; the top-up adds what a check still lacks
            "seeds": seeds if optimizer == "adamw" else 32,
            "top_up": given.get("seeds") is None,
            "n_layers": 2,
            "n_heads": 4,
            "batch_size": 1,
            "seq_len": 16,
            "readout_std": 0.125,
            "logit_scale": 0.25 if tied else 1.0,
            "record": record,
            "steps": max(last, 1),
            "probes": "full",
        }
    # the lr decays to 0: at a constant lr the noise of the last steps moves the optimum (measured: by half an octave)
    # around where muP's optimum lies: with the same 7 lrs an octave lower, the drift of the CPU's setting (optima at
    # 2^-5.7 to 2^-5.2) is known as well from three times the seeds only
    octaves = "2^-9:2^-3:2" if device == "cpu" else "2^-10:2^-4:2"
    grid = {"sgd": "2^-7:2^-2:2^1/2"}.get(optimizer, octaves)
    common = {"name": "lr", "parametrizations": ("sp-fanin", "gdn-mup"), "lrs": grid, "logit_scale": 4.0}
    common |= {"schedule": "linear"}
    if device == "cpu":
        steps = 60 if optimizer == "adamw" else 120
        sizes = {
            "widths": (32, 64, 128),
            "seeds": 6,  # 97 of 100 sweeps without drift transfer, with 5 some 95, with 4 90 (sweeps/simulate_lr.py)
            "n_layers": 1,
            "batch_size": 8,
            "seq_len": 48,
            "eval_tokens": 8192,
        }
    else:
        steps = 500
        sizes = {"widths": (256, 512, 1024), "seeds": 3, "n_layers": 4, "n_heads": 4, "batch_size": 16, "seq_len": 512}
        sizes["eval_tokens"] = 2**18
        # weights, moments and the delta rule's state stay in float32; `--check-precision` says what it moves
        sizes["dtype"] = "bfloat16"
    steps = given.get("steps", steps)
    warmup = max(steps, 0) // 10 if isinstance(steps, int) else 0
    return common | sizes | {"steps": steps, "warmup_steps": warmup}
