"""What an optimizer gave a user's parameters at each width, read back from its groups: lr, weight decay, eps."""

from typing import NamedTuple

import pandas as pd

from mupcheck.coordinates.coded import beside
from mupcheck.coordinates.evidence import medians_of
from mupcheck.coordinates.own import exponents
from mupcheck.coordinates.validity import REALISED


class Given(NamedTuple):
    """One setting of one parameter: its value at each width, and by which power of width it goes, None without one."""

    by_width: dict[int, float]
    exponent: float | None


def settings_given(runs: pd.DataFrame, coords: pd.DataFrame) -> dict[tuple[str, str], Given]:
    """Return the settings by (site, lr | weight_decay | eps), in the order of the coords; none where none is stored.

    Of a parameter's layers the median, at the last step that has the setting: a warm-up is over then, if ever.

    Args:
        runs: of one sweep.
        coords: the `coords` table.
    """
    if coords.empty:
        return {}
    rows = coords[coords["stat"].isin(list(REALISED))]
    medians = medians_of(beside(rows, runs[runs["status"] != "failed"], ("width", "seed")))
    last = medians[medians["step"] == medians.groupby(["site", "stat"])["step"].transform("max")]
    values = last.groupby(["site", "stat", "step", "width"], as_index=False)["value"].median().assign(layer=-1)
    found = {}
    for stat, field in REALISED.items():
        own = values[values["stat"] == stat]
        powers = exponents(own).set_index("site")["exponent"]
        for site, of in own.groupby("site"):
            by_width = {int(width): float(value) for width, value in zip(of["width"], of["value"], strict=True)}
            found[str(site), field] = Given(by_width, float(powers[site]) if site in powers.index else None)
    order = {str(site): i for i, site in enumerate(rows["site"].unique())}
    return dict(sorted(found.items(), key=lambda each: order[each[0][0]]))
