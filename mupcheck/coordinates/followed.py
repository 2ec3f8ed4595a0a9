"""Which table the runs of one group followed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mupcheck.theory.parametrization import TABLES, Table, rules_hash, table_from_json


def find_rules(runs: pd.DataFrame, resolved: Mapping[str, Any]) -> Table | None:
    """Return the table that runs of one group followed: the sweep's own, else the shipped one of that name."""
    run = runs.iloc[0]
    name = run["parametrization"]
    found = table_from_json(name, resolved[name]) if name in resolved else TABLES.get(name)
    if found is not None and rules_hash(found, optimizer=run["optimizer"], mode=run["mode"]) == run["rules_hash"]:
        return found
    return None
