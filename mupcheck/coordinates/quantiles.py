"""Student's t, chi2 and the normal as scipy.stats has them, which takes half a second longer to import.

Each calls the function of scipy.special that scipy.stats calls: numbers and arrays, p in (0, 1), dof above 0.
"""

from typing import Any

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
