"""Loss curves whose truth is known, for the tests of what is read from them."""

import numpy as np
import pandas as pd

from mupcheck.learning_rates.drift import transfer
from mupcheck.learning_rates.lr_curve import Point, fit_minimum, loss_at, mean_curve
from mupcheck.learning_rates.optimum import Optimum

LRS = np.arange(-10.0, -2.0)
WIDTHS = (32, 64, 128)


def curve_of(x, losses):
    """Curve from losses [seed, lr], +inf for a diverged run and NaN for one that was not run."""
    points = []
    for log2_lr, at_lr in zip(x, np.transpose(losses), strict=True):
        ran = [(seed, float(loss)) for seed, loss in enumerate(at_lr) if not np.isnan(loss)]
        seed_losses = tuple((seed, loss if np.isfinite(loss) else None) for seed, loss in ran)
        n_diverged = sum(loss is None for _, loss in seed_losses)
        mean = float(np.mean([loss for _, loss in ran])) if ran and not n_diverged else None
        points.append(Point(float(log2_lr), mean, n_diverged, seed_losses))
    return tuple(points)


def optimum_of(width, x, losses, *, flags=(), parametrization="p"):
    """The optimum of losses [seed, lr], as `find_optima` would have it, without its own interval."""
    curve = curve_of(x, losses)
    best = float(fit_minimum(np.asarray(x, dtype=float), mean_curve(curve)[1][None])[0][0])
    found = np.isfinite(mean_curve(curve)[1]).any()
    return Optimum(
        *("s", parametrization, "sgd", "heads", width),
        *((best, None, None, loss_at(curve, best)) if found else (None, None, None, None)),
        *("val_loss", flags, len(losses), len(curve), curve),
    )


def sweep(drift=0.0, *, widths=WIDTHS, seeds=3, x=LRS, centre=-6.2, bend=0.1, noise=0.1, **columns):
    """lr runs whose optimum lies at centre + drift * log2(width / widths[0]), give or take `noise` octaves a seed."""
    rng = np.random.default_rng(5)
    rows = []
    for width in widths:
        for seed in range(seeds):
            best = centre + drift * np.log2(width / widths[0]) + noise * rng.normal()
            for log2_lr in x:
                loss = 3 - 0.1 * np.log2(width) + bend * (log2_lr - best) ** 2
                rows.append(
                    {"width": width, "seed": seed, "log2_lr": log2_lr, "train_loss": loss + 0.1, "val_loss": loss}
                )
    runs = pd.DataFrame(rows).assign(
        run_id=[f"run{i}" for i in range(len(rows))], sweep="s", kind="lr", parametrization="p", rules_hash="r",
        optimizer="adamw", mode="head-dim", status="ok", clipped_fraction=0.0, base_width=widths[0], n_layers=1,
        n_heads=4, tied=False, vocab_size=256, batch_size=8, seq_len=48, steps=60, data="synthetic", data_hash="d",
        weight_decay=0.0, decay_mode="coupled", momentum=np.nan, schedule="constant", warmup_steps=0, clip=np.nan,
        dtype="float32", backend="chunk", device="cpu", torch="2.13.0", commit=None,
    )  # fmt: skip
    runs["head_k_dim"] = runs["width"] // 8
    runs["head_v_dim"] = runs["width"] // 4
    return runs.assign(**columns)


def judge(runs, **options):
    (answer,) = transfer(runs, **options)
    return answer


def noisy_beyond(runs, width, side=1):
    """Above its optimum (below, with side -1), one seed of a width finds all lrs better, the others find them worse."""
    beyond = (runs["width"] == width) & (side * (runs["log2_lr"] - -6) > 0)
    loss = 2.9 + 0.3 * (1 - 2.5 * (runs["seed"] == 0))
    return runs.assign(val_loss=np.where(beyond, loss, runs["val_loss"]))


def diverge(runs, where):
    """The runs with those of `where` diverged, their losses left at the value a dead model returns."""
    runs.loc[where, ["status", "train_loss", "val_loss"]] = ["diverged", np.log(256), np.log(256)]
    return runs
