"""Planted results to draw, and what a drawn figure shows."""

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from mupcheck.coordinates.slopes import fit_slopes, pool
from mupcheck.plots import Caption
from mupcheck.results.reading import Results

T = Caption("t", "a sweep · adamw · head-dim", "3 seeds · 60 steps")
WIDTHS = (32, 64, 128)
SEEDS = 3
SPEC = {
    "rules_hash": "r", "optimizer": "adamw", "mode": "head-dim", "status": "ok", "clipped_fraction": 0.0,
    "base_width": 32, "n_layers": 2, "n_heads": 4, "head_k_dim": 8, "head_v_dim": 16, "tied": False, "vocab_size": 256,
    "batch_size": 8, "seq_len": 48, "steps": 60, "data": "stdlib", "data_hash": "d", "weight_decay": 0.0,
    "decay_mode": "coupled", "momentum": np.nan, "schedule": "constant", "warmup_steps": 0, "clip": np.nan,
    "dtype": "float32", "backend": "chunk", "device": "cpu", "torch": "2.13.0", "commit": None,
    "train_loss": 3.0, "val_loss": np.nan,
}  # fmt: skip
# what `planted_coords` measures: sites by kind and stat, and the layers of each site
MEASURED = {
    ("activation", "rms"): ("embedding", "q_pre", "mlp_out", "logits"),
    ("activation", "mean_abs"): ("q_pre",),
    ("activation_update", "rms"): ("q_pre",),
    ("activation_grad", "rms"): ("mlp_out",),
    ("effective_update", "rms"): ("embedding", "q_proj"),
    ("weight_update", "rms"): ("q_proj",),
    ("weight_update", "spectral"): ("q_proj",),
    ("weight", "rms"): ("q_proj",),
    ("weight_grad", "rms"): ("q_proj",),
}
LAYERS = {"embedding": (-1,), "logits": (-1,), "q_pre": (0, 1), "mlp_out": (0, 1), "q_proj": (0, 1)}


def planted_coords(slope=0.0, *, names=("gdn-mup",), widths=WIDTHS, steps=(0, 1, 4), noise=0.05):
    """Runs and coords of coordinate checks whose every size grows as width^slope, `noise` octaves a seed."""
    rng = np.random.default_rng(0)
    runs, coords = [], []
    for name in names:
        for width in widths:
            for seed in range(SEEDS):
                run_id = f"{name}-{width}-{seed}"
                varied = {"run_id": run_id, "sweep": "check", "kind": "coord", "parametrization": name}
                varied |= {"n_params": width**2, "lr": 0.01, "log2_lr": np.log2(0.01)}
                runs.append(SPEC | varied | {"width": width, "seed": seed})
                for (kind, stat), sites in MEASURED.items():
                    for site in sites:
                        for layer in LAYERS[site]:
                            for step in steps:
                                size = 2.0 ** (slope * np.log2(width) + step / 4 + noise * rng.normal())
                                coords.append((run_id, step, layer, site, kind, stat, size))
    columns = ["run_id", "step", "layer", "site", "kind", "stat", "value"]
    return pd.DataFrame(runs), pd.DataFrame(coords, columns=columns)


def planted_lrs(drift=0.0, *, names=("gdn-mup",), widths=WIDTHS, seeds=SEEDS, bend=0.1, low=-10):
    """lr runs with an optimum at 2^-6.2, `drift` octaves less or more for every doubling of width."""
    rng = np.random.default_rng(0)
    rows = []
    for name in names:
        for width in widths:
            best = -6.2 + drift * np.log2(width / widths[0])
            for log2_lr in range(low, -2):
                for seed in range(seeds):
                    loss = 2.5 + bend * (log2_lr - best) ** 2 + 0.01 * rng.normal()
                    varied = {"run_id": f"{name}-{width}-{log2_lr}-{seed}", "parametrization": name, "width": width}
                    losses = {"train_loss": loss, "val_loss": loss, "log2_lr": float(log2_lr), "lr": 2.0**log2_lr}
                    rows.append(SPEC | varied | losses | {"sweep": "lrs", "kind": "lr", "seed": seed})
    return pd.DataFrame(rows)


def planted_steps(runs, *, worse=0.0, steps=20):
    """Steps of lr runs whose loss falls by 0.1 for each doubling of width, and rises by `worse` above 2^-5."""
    rng = np.random.default_rng(0)
    step = np.tile(np.arange(steps + 1), len(runs))
    run_id, width, log2_lr = (np.repeat(runs[name].to_numpy(), steps + 1) for name in ("run_id", "width", "log2_lr"))
    loss = 4 + (worse * (log2_lr > -5) - 0.1) * np.log2(width / WIDTHS[0]) + 0.01 * rng.normal(size=len(step))
    return pd.DataFrame({"run_id": run_id, "step": step, "loss": loss})


def results(*runs, coords=None, steps=None):
    steps = pd.DataFrame() if steps is None else steps
    return Results(pd.concat(runs, ignore_index=True), steps, planted_coords()[1] if coords is None else coords, {})


def sizes_of(runs, coords, kind="activation", stat="rms"):
    """Sizes and slopes of one kind, as `draw_coordinates` takes them."""
    slopes = fit_slopes(runs, coords)
    sizes = coords.merge(runs[["run_id", "parametrization", "width", "seed"]], on="run_id")
    return tuple(table[(table["kind"] == kind) & (table["stat"] == stat)] for table in (sizes, slopes))


def slopes_of(runs, coords):
    """Slopes of single layers and steps, and pooled ones, as `draw_slopes` takes them."""
    return fit_slopes(runs, coords), fit_slopes(runs, pool(coords))


def points(axes, label):
    """[point, 2] of the artists with a label."""
    found = [line.get_xydata() for line in axes.lines if line.get_label() == label]
    return np.concatenate(found) if found else np.empty((0, 2))


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def clashes(figure):
    """Pairs of texts that overlap, and texts that reach over the figure's edge."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    boxes = [(name, box.shrunk(0.98, 0.9)) if box.height else (name, box) for name, box in boxes]
    found = [name for name, box in boxes if not (figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1)]
    found += [name for name, box in boxes if not (figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1)]
    return found + [(a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[:i] if x.overlaps(y)]
