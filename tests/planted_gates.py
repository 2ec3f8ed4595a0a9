"""Gradients of the gates with planted slopes, in memory."""

import numpy as np
import pandas as pd
from planted_slopes import make_runs

STEPS, LAYERS = (0, 1, 4), (0, 1)


def planted(slope, *, noise=0.0, loss_slope=0.0, reference=-1.0, values=0.0, **runs):
    """Runs, and coords as `plant` makes them."""
    runs = make_runs(**({"optimizer": "sgd"} | runs))
    how = {"noise": noise, "loss_slope": loss_slope, "reference": reference, "values": values}
    return runs, plant(runs, slope, **how)


def plant(runs, slope, *, noise=0.0, loss_slope=0.0, reference=-1.0, values=0.0):
    """Gate gradients that grow as width^slope, times what later falls as width^(loss_slope * step).

    Those of the mixer's output and of v grow as width^reference, v itself as width^values.
    """
    rng = np.random.default_rng(0)
    rows = []
    for run in runs.itertuples():
        for step in STEPS:
            loss = run.width ** (loss_slope * step)
            for layer in LAYERS:
                slopes = {"z_alpha": slope, "z_beta": slope, "mixer_out": reference, "v_conv": reference}
                for site, p in slopes.items():
                    size = loss * run.width**p * 2 ** (noise * rng.standard_normal())
                    rows.append((run.run_id, step, layer, site, "activation_grad", "rms", size))
                rows.append((run.run_id, step, layer, "v_conv", "activation", "rms", run.width**values))
    columns = ["run_id", "step", "layer", "site", "kind", "stat", "value"]
    return pd.DataFrame(rows, columns=columns)
