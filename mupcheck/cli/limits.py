"""Options that limit what one call of a sweep does, as a person writes them: 30m, 2h, 90s."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mupcheck.sweep.limits import Limits

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
TIME = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) ?(?P<unit>[smhd]?)")


def seconds_of(name: str, text: str) -> float:
    """Return the seconds of a time such as "30m"; a number alone is minutes. `name` is what the user calls it.

    Raises:
        ValueError: if it is no time above 0.
    """
    found = TIME.fullmatch(text.strip())
    seconds = float(found["number"]) * SECONDS[found["unit"] or "m"] if found else math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} {text!r} is no time above 0; give one such as 90s, 30m or 2h, or a number of minutes")
    return seconds


def limits_of(options: Mapping[str, Any], names: Mapping[str, str]) -> "Limits":
    """Return what a call may take, by its options --run-timeout, --budget and --max-runs.

    Raises:
        ValueError: if a time is none.
    """
    from mupcheck.sweep.limits import Limits

    group, all_of_it = (
        None if options[key] is None else seconds_of(names[key], options[key]) for key in ("run_timeout", "budget")
    )
    return Limits(group_seconds=group, seconds=all_of_it, max_runs=options["max_runs"])


def said_of(limits: "Limits", options: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Say which limit ended a call, if one did: "--budget 30m"."""
    if not limits.out_of_time and limits.max_runs is None:
        return ""
    key = "budget" if limits.out_of_time else "max_runs"
    return f"{names[key]} {options[key]}"
