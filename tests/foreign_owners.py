"""A process of another machine that drives a sweep, as its files in the folder say."""

import json
import os


def foreign(folder, token="f" * 16, *, runs=(), beats=3, **fields):
    """Write an owner of another machine, with claims."""
    place = folder / "claims"
    place.mkdir(parents=True, exist_ok=True)
    document = {"token": token, "host": "node7", "machine": "node7 elsewhere", "pid": os.getpid(), "started": "1"}
    document |= {"since": "2026-01-01T00:00:00+00:00", "command": "mupcheck run x.toml", "asks": "a", "beats": beats}
    (place / f"{token}.owner").write_text(json.dumps(document | {"said": {}, "mupcheck": "1"} | fields))
    for run_id in runs:
        (place / f"{run_id}.1").write_text(token)
