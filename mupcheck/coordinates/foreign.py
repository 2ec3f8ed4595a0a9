"""What is said of sizes that others measured: no options, no cause that only our model can have."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from mupcheck.coordinates.slopes import farthest_first
from mupcheck.imported.wording import in_words
from mupcheck.results.comparable import UNKNOWN, lr_text
from mupcheck.theory.parametrization import write_exponent

NO_UPDATE = "no effective update was recorded"


class Settings(NamedTuple):
    """What is known of how sizes were measured, as parts of a line."""

    setting: str
    base: str
    rest: str


def known_settings(of: Mapping[str, Any], optimizer: str, mode: str) -> Settings:
    """Return what is known: "adamw, head-dim, ", " (base 32)" and ", lr 2^-12, data synthetic, batch 1 x 16 tokens"."""
    setting = "".join(f"{word}, " for word in (optimizer, mode) if word != UNKNOWN)
    rest = []
    if not pd.isna(of["lr"]):
        rest.append(f"lr {lr_text(of['lr'])}")
    if not pd.isna(of["data"]):
        rest.append(f"data {of['data']}")
    if not pd.isna(of["batch_size"]) and not pd.isna(of["seq_len"]):
        rest.append(f"batch {int(of['batch_size'])} x {int(of['seq_len'])} tokens")
    base = "" if pd.isna(of["base_width"]) else f" (base {int(of['base_width'])})"
    return Settings(setting, base, "".join(f", {each}" for each in rest))


def advise(verdict: str, reason: str, next_step: str, pooled: pd.DataFrame, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return verdict, reason and next step of a judgement on what others measured.

    Args:
        verdict, reason, next_step: as they would be of our own.
        pooled: rows of `fit_slopes` over layers and later steps.
        named: what the user requires by name.
    """
    judged = pooled[pooled["verdict"] != "info"]
    failed = farthest_first(judged[judged["verdict"] == "fail"])
    updates = failed[failed["kind"] == "effective_update"]
    if verdict == "cannot tell" and judged.empty:
        reason = "nothing is required of any of these sizes"
        next_step = "say what is, such as --require '*=0', or record effective updates (a column kind)"
    elif reason == NO_UPDATE and named:
        verdict, reason, next_step = "pass", f"all {len(judged)} judged slopes are as required", ""
    elif reason == NO_UPDATE:
        next_step = "record effective updates (a column kind), which each isolate one lr, or say what is required"
    elif verdict == "fail" and len(updates):
        row = updates.iloc[0]
        by = round(2 * float(row["slope"])) / 2
        if by:
            power = write_exponent(abs(by)).removeprefix("+")
            size = "large" if by > 0 else "small"
            next_step = f"what {row['site']} changes is too {size} by width^{power}: scale its lr by "
            next_step += f"width^{write_exponent(-by).removeprefix('+')}, once what feeds it keeps its size"
        else:
            next_step = f"look at the lr of {row['site']}"
    elif verdict == "fail" and len(failed):
        next_step = f"look at the init and the multipliers of what makes {failed.iloc[0]['site']}"
    return {"verdict": verdict, "reason": in_words(reason), "next_step": in_words(next_step)}
