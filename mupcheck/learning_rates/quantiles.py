"""Student's t, chi2 and the normal as scipy.stats has them, which takes half a second longer to import.

Each calls the function of scipy.special that scipy.stats calls: numbers and arrays, p in (0, 1), dof above 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special


def t_ppf(p: Any, dof: Any) -> Any:
    """Return Student's t below which a share p lies."""
    return special.stdtrit(dof, p)


def t_isf(p: Any, dof: Any) -> Any:
    """Return Student's t above which a share p lies."""
    return -special.stdtrit(dof, p)


def t_sf(t: Any, dof: Any) -> Any:
    """Return the share above Student's t."""
    return special.stdtr(dof, -t)


def chi2_ppf(p: Any, dof: Any) -> Any:
    """Return the chi2 below which a share p lies."""
    return 2 * special.gammaincinv(dof / 2, p)


def chi2_isf(p: Any, dof: Any) -> Any:
    """Return the chi2 above which a share p lies."""
    return special.chdtri(dof, p)


def normal_cdf(z: Any) -> Any:
    """Return the share of a normal below z."""
    return special.ndtr(z)


def chi2_sf(x: Any, dof: Any) -> Any:
    """Return the share above a chi2."""
    return special.chdtrc(dof, x)


def f_ppf(p: Any, dof: Any, dof_below: Any) -> Any:
    """Return the F, of a ratio's upper and lower degrees of freedom, below which a share p lies."""
    return special.fdtri(dof, dof_below, p)


def f_sf(f: Any, dof: Any, dof_below: Any) -> Any:
    """Return the share above an F, of a ratio's upper and lower degrees of freedom."""
    return special.fdtrc(dof, dof_below, f)


def normal_ppf(p: Any) -> Any:
    """Return the z of a normal below which a share p lies."""
    return special.ndtri(p)


def false_discoveries(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values adjusted for the share of false ones among those called (Benjamini & Hochberg 1995)."""
    order = np.argsort(p)
    n = len(p)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum.accumulate((p[order] * (n / np.arange(1, n + 1)))[::-1])[::-1]
    return np.clip(adjusted, 0, 1)
