"""Loss curves of all widths of one parametrization, fitted together: each its own place, height and bend, one shape.

Above its minimum at x* a curve of loss against x = log2 lr rises, u = x - x* octaves away from it, by

    rise(u) = 2 k / (a (a + b)) * (exp(-a u) - 1 + a / b * (exp(b u) - 1)),

k nats per octave squared around the minimum, steeper to the left as a grows and to the right as b does; a parabola as
both go to 0. Curves of 7 lrs cannot tell a and b by themselves, but widths have nearly the same: what they share, and
how far each may depart from it, is the prior below, whose constants are of measured curves (the demo's, on a CPU: a
0.48 to 0.51, b 0.8 to 1.5; widths 256 to 1024 on a GPU: a 0.3 to 1.1, b 0.5 to 0.9). A mean loss is weighed by the
noise of its seeds and by a misfit that grows with its rise, so that what lies far above the minimum counts little.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mupcheck.learning_rates.lr_curve import Floats, Point
from mupcheck.learning_rates.quantiles import chi2_ppf, chi2_sf

LOSS, PLACE, BEND, LEFT, RIGHT = range(N_PARAMETERS := 5)  # minimum, x*, log k, log a, log b
LOG_STEEPNESS = (float(np.log(0.3)), float(np.log(0.5)))  # of a and b: where the prior has its middle
SHARED_SD, OWN_SD = 1.0, 0.15  # of log a and log b: of what widths share, and of a width's departure from that
BEND_SHARED_SD, BEND_OWN_SD = 2.0, 0.5  # of log k
MISFIT = 0.05  # of the rise above the lowest point: how far a curve is from this family
SPREAD_DF = 8  # degrees of freedom by which the noise at one lr is drawn to that of all lrs
HALFWAY_DF = 8  # of a correlation between widths, at which half of it is believed
UNLIKELY = 0.05  # residuals as large by chance
MAX_EXPONENT = 40.0  # exp of it is still finite in a product
MAX_STEPS, SMALL_STEP = 60, 1e-6


@dataclass(frozen=True)
class Family:
    """The fitted curves, [width] in the order given, and how their parameters follow the losses.

    Attributes:
        x: log2 lr of any width, rising, [lr].
        used: whether a width's mean loss there was fitted, [width, lr].
        theta: parameters, [width, N_PARAMETERS].
        covariance: of all parameters: noise of the seeds, misfit and prior, [width * N_PARAMETERS] squared.
        follows: change of each parameter with each mean loss, [width * N_PARAMETERS, width, lr].
        noise: standard deviation of each mean loss over seeds, 0 where it was not used, [width, lr].
        correlation: of the noise of two widths at one lr, [width, width].
        departures: of each seed from the mean of its width and lr, its mean over lrs taken off, [width, seed, lr].
        misfit: squared residuals by their degrees of freedom where these are more than chance makes, else 1, [width].
    """

    x: Floats
    used: NDArray[np.bool_]
    theta: Floats
    covariance: Floats
    follows: Floats
    noise: Floats
    correlation: Floats
    departures: Floats
    misfit: Floats

    def range_of(self, width: int) -> tuple[float, float]:
        """Return the lowest and the highest log2 lr that were fitted, of the width of this index."""
        there = self.x[self.used[width]]
        return float(there[0]), float(there[-1])


def rise(theta: Floats, x: float | Floats) -> Floats:
    """Return how far a curve [..., N_PARAMETERS] lies above its minimum at x."""
    return _rise(np.asarray(x - theta[..., PLACE]), theta)[0]


def fit_family(curves: Sequence[Sequence[Point]]) -> Family:
    """Fit the curves of all widths at once, through the lrs around each lowest point at which no seed diverged.

    Raises:
        ValueError: if fewer than 2 seeds are shared by all of the curves, or one has no lr with all of them.
    """
    x, losses, used = _losses(curves)
    if losses.shape[1] < 2:
        raise ValueError("fewer than 2 seeds that all widths share; add seeds")
    if not used.any(axis=1).all():
        raise ValueError("a width has no lr at which all seeds finished; add lower lrs")
    noise, departures = _noise(losses, used)
    mean = np.where(used, np.nan_to_num(losses.mean(axis=1)), 0.0)
    weights = np.where(used, 1 / (noise**2 + (MISFIT * _heights(mean, used)) ** 2), 0.0)
    theta, jacobian, hessian = _fit(x, mean, weights)
    covariance = np.linalg.inv(hessian).astype(np.float64)
    n_widths = len(theta)
    by_width = np.zeros((n_widths, N_PARAMETERS, n_widths, len(x)))
    for i in range(n_widths):
        by_width[i, :, i] = jacobian[i].T * weights[i]
    follows: Floats = (covariance @ by_width.reshape(n_widths * N_PARAMETERS, -1)).reshape(-1, n_widths, len(x))
    residuals = mean - theta[:, LOSS, None] - np.stack([rise(own, x) for own in theta])
    # 3 of the 5 parameters are a width's own, the shape is mostly shared
    freedom = np.maximum(used.sum(axis=1) - 3, 1)
    squares = (weights * residuals**2).sum(axis=1)
    misfit = np.where(chi2_sf(squares, freedom) < UNLIKELY, squares / freedom, 1.0)
    correlation = _correlation(departures, noise)
    return Family(x, used, theta, covariance, follows, noise, correlation, departures, misfit)


def _losses(curves: Sequence[Sequence[Point]]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return log2 lr [lr], losses [width, seed, lr] of the seeds that all widths have, and what to fit [width, lr].

    Fitted are the lrs around each lowest mean that have all seeds, as far as no seed diverged at one between.
    """
    x = sorted({point.log2_lr for curve in curves for point in curve})
    of_widths = [{seed for point in curve for seed, _ in point.seed_losses} for curve in curves]
    seeds = sorted(set.intersection(*of_widths)) if of_widths else []
    losses = np.full((len(curves), len(seeds), len(x)), np.nan)
    used = np.zeros((len(curves), len(x)), dtype=bool)
    for i, curve in enumerate(curves):
        dead = np.zeros(len(x), dtype=int)
        for point in curve:
            column, found = x.index(point.log2_lr), dict(point.seed_losses)
            dead[column] = bool(point.n_lost)
            if not point.n_lost:
                losses[i, :, column] = [np.nan if found.get(seed) is None else found[seed] for seed in seeds]
        whole = np.isfinite(losses[i]).all(axis=0) if seeds else np.zeros(len(x), dtype=bool)
        if whole.any():
            lowest = int(np.where(whole, losses[i].mean(axis=0), np.inf).argmin())
            parts = np.cumsum(dead)
            used[i] = whole & (parts == parts[lowest])
    return np.array(x), losses, used


def _noise(losses: Floats, used: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the standard deviation of each mean [width, lr] and the departures of the seeds [width, seed, lr].

    What a seed does at all lrs alike moves no minimum and is taken off. Few seeds know the noise at one lr badly, so
    that it is drawn to the median of all lrs.
    """
    n = losses.shape[1]
    centred = np.where(used[:, None], losses - losses.mean(axis=1, keepdims=True), 0.0)
    n_lrs = used.sum(axis=1)[:, None, None]
    departures = np.where(used[:, None], centred - centred.sum(axis=2, keepdims=True) / n_lrs, 0.0)
    variance = (departures**2).sum(axis=1) / (n - 1) * (n_lrs[:, 0] / np.maximum(n_lrs[:, 0] - 1, 1))
    middle = np.array([np.median(own[there]) for own, there in zip(variance, used, strict=True)])[:, None]
    middle = middle / (chi2_ppf(0.5, n - 1) / (n - 1))
    drawn = ((n - 1) * variance + SPREAD_DF * middle) / (n - 1 + SPREAD_DF)
    least = np.finfo(np.float64).eps * np.nanmax(np.abs(losses))
    return np.where(used, np.sqrt(drawn / n) + least, 0.0), departures


def _heights(mean: Floats, used: NDArray[np.bool_]) -> Floats:
    """Return how far means lie above about the minimum, [width, lr]: the lowest one is as far as the next from it."""
    heights = np.ones_like(mean)
    for height, own, there in zip(heights, mean, used, strict=True):
        lowest, *rest = np.sort(own[there])
        height[there] = own[there] - lowest + (rest[0] - lowest if rest else 0.0)
    return heights


def _correlation(departures: Floats, noise: Floats) -> Floats:
    """Return the correlation of two widths' noise: seeds share their batches. What few runs show is half believed."""
    scaled = departures / np.where(noise > 0, noise, 1.0)[:, None]
    products = np.einsum("asl,bsl->ab", scaled, scaled)
    size = np.sqrt(np.maximum(np.diag(products), np.finfo(np.float64).tiny))
    freedom = (departures.shape[1] - 1) * (departures.shape[2] - 1)
    found = np.clip(products / np.outer(size, size) * freedom / (freedom + HALFWAY_DF), -0.9, 0.9)
    np.fill_diagonal(found, 1.0)
    return found


def _rise(u: Floats, theta: Floats) -> tuple[Floats, ...]:
    """Return the rise at u and its derivatives by u, log k, log a and log b."""
    k, a, b = (np.exp(theta[..., i]) for i in (BEND, LEFT, RIGHT))
    left = np.exp(np.clip(-a * u, -MAX_EXPONENT, MAX_EXPONENT))
    right = np.exp(np.clip(b * u, -MAX_EXPONENT, MAX_EXPONENT))
    height, inner = 2 * k / (a * (a + b)), left - 1 + a / b * (right - 1)
    of_left = -height * (1 + a / (a + b)) * inner + height * (-a * u * left + a / b * (right - 1))
    of_right = -height * b / (a + b) * inner + height * (a * u * right - a / b * (right - 1))
    return height * inner, height * a * (right - left), height * inner, of_left, of_right


def _prior(n_widths: int) -> Floats:
    """Return the prior's precision of all parameters, [width * N_PARAMETERS] squared."""
    precision = np.zeros((n_widths, N_PARAMETERS, n_widths, N_PARAMETERS))
    for i, shared, own in ((BEND, BEND_SHARED_SD, BEND_OWN_SD), *((i, SHARED_SD, OWN_SD) for i in (LEFT, RIGHT))):
        precision[:, i, :, i] = np.linalg.inv(shared**2 * np.ones((n_widths, n_widths)) + own**2 * np.eye(n_widths))
    return precision.reshape(n_widths * N_PARAMETERS, -1)


def _start(x: Floats, mean: Floats, weights: Floats) -> Floats:
    """Return parameters [width, N_PARAMETERS] from a parabola around each lowest point."""
    rows = []
    for own, weight in zip(mean, weights, strict=True):
        lowest = int(np.where(weight > 0, own, np.inf).argmin())
        d = x - x[lowest]
        near = weight * np.exp(-((d / 2) ** 2) / 2)
        powers = d[:, None] ** np.arange(3)
        normal = (powers.T * near) @ powers
        normal += 1e-9 * np.trace(normal) * np.eye(3)
        _, gradient, bend = np.linalg.solve(normal, (powers.T * near) @ (own - own[lowest]))
        bend = max(bend, 3e-3)
        place = x[lowest] + np.clip(-gradient / (2 * bend), -1, 1)
        rows.append([own[lowest], place, np.log(bend), *LOG_STEEPNESS])
    return np.array(rows)


def _fit(x: Floats, mean: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Levenberg-Marquardt: return parameters, their Jacobian [width, lr, N_PARAMETERS], and the Hessian of it all."""
    theta, precision = _start(x, mean, weights), _prior(len(mean))
    centre = theta.copy()
    centre[:, BEND] = theta[:, BEND].mean()

    def state(at: Floats) -> tuple[float, Floats, Floats]:
        risen = _rise(x - at[:, PLACE, None], at[:, None])
        residuals = mean - at[:, LOSS, None] - risen[0]
        jacobian = np.stack([np.ones_like(residuals), -risen[1], *risen[2:]], axis=-1)
        off = (at - centre).ravel()
        return float((weights * residuals**2).sum() + off @ precision @ off), residuals, jacobian

    damping, (cost, residuals, jacobian) = 1e-3, state(theta)
    for _ in range(MAX_STEPS):
        hessian = _hessian(jacobian, weights, precision)
        pull = np.einsum("wli,wl->wi", jacobian, weights * residuals).ravel() - precision @ (theta - centre).ravel()
        step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), pull).reshape(theta.shape)
        step = np.clip(step, -0.7, 0.7)
        tried = state(theta + step)
        if tried[0] <= cost:
            theta, (cost, residuals, jacobian), damping = theta + step, tried, damping / 5
            if np.abs(step).max() < SMALL_STEP:
                break
        else:
            damping *= 5
    return theta, jacobian, _hessian(jacobian, weights, precision)


def _hessian(jacobian: Floats, weights: Floats, precision: Floats) -> Floats:
    n_widths = len(jacobian)
    hessian = np.zeros((n_widths, N_PARAMETERS, n_widths, N_PARAMETERS))
    for i in range(n_widths):
        hessian[i, :, i] = (jacobian[i].T * weights[i]) @ jacobian[i]
    return hessian.reshape(n_widths * N_PARAMETERS, -1) + precision
