"""A module `ray` whose cluster is a file: groups are trained in the process that asks, and fail as the file says.

`nodes` are their resources; `dies`, `kills` and `breaks` are groups, by their task, whose node dies, whose process is
killed or which meets a bug, and how often; `blind` is whether no node sees the folder, `refuses` the error that an
address answers with, `vanishes` whether the cluster is lost while groups train.
"""

import json
import os
from pathlib import Path

PACKAGE = """
import json, os
from concurrent.futures import Future
from types import SimpleNamespace
from ray import exceptions

STATE = {state!r}

def load():
    return json.load(open(STATE))

def change(**what):
    state = load() | what
    with open(STATE + ".new", "w") as file:
        json.dump(state, file)
    os.replace(STATE + ".new", STATE)

def init(**how):
    change(init=how)
    if refuses := load().get("refuses"):
        raise getattr(exceptions, refuses[0])(refuses[1])

def nodes():
    return [{"Alive": True, "NodeID": str(i), "Resources": each} for i, each in enumerate(load()["nodes"])]

class remote:
    def __init__(self, function, **how):
        self.function, self.how = function, how

    def options(self, **how):
        return remote(self.function, **how)

    def remote(self, *arguments):
        answer = Future()
        state = load()
        try:
            if self.function.__name__ == "sees":
                answer.set_result(("far", not state.get("blind")))
                return answer
            change(tasks=state.get("tasks", []) + [self.how])
            for name, kind in (("dies", "NodeDiedError"), ("kills", "WorkerCrashedError"), ("breaks", "RayTaskError")):
                left = dict(load().get(name, {}))
                which = str(arguments[2])
                if left.get(which, 0) > 0:
                    left[which] -= 1
                    change(**{name: left})
                    raise getattr(exceptions, kind)(f"{kind} of {which}\\nmore")
            answer.set_result(self.function(*arguments))
        except Exception as error:
            answer.set_exception(error)
        return answer

def wait(answers, num_returns=1, timeout=None):
    if load().get("vanishes"):
        os.write(2, b"the GCS went away\\n")
        os._exit(1)
    return answers[:num_returns], answers[num_returns:]

def get(answer):
    return answer.result()

def cancel(answer, force=False):
    pass

def shutdown():
    change(down=True)
"""
EXCEPTIONS = """
class RayError(Exception): pass
class NodeDiedError(RayError): pass
class LocalRayletDiedError(RayError): pass
class WorkerCrashedError(RayError): pass
class OutOfMemoryError(RayError): pass
class RayTaskError(RayError): pass
class AuthenticationError(RayError): pass
"""
STRATEGIES = """
class NodeAffinitySchedulingStrategy:
    def __init__(self, node_id, soft): pass
"""


class FakeRay:
    """The module's folder, to be put on PYTHONPATH, and what is in its file."""

    def __init__(self, folder: Path, **state) -> None:
        self.path, self.state = str(folder), folder / "state.json"
        self.become(nodes=[{"CPU": 2}], **state)
        files = {
            "__init__": PACKAGE.replace("{state!r}", repr(str(self.state))),
            "exceptions": EXCEPTIONS,
            "util/__init__": "",
            "util/scheduling_strategies": STRATEGIES,
        }
        for name, text in files.items():
            file = folder / "ray" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def become(self, **changes) -> None:
        """Change what the cluster does."""
        before = json.loads(self.state.read_text()) if self.state.exists() else {}
        os.makedirs(self.path, exist_ok=True)
        self.state.write_text(json.dumps(before | changes))

    def said(self, name: str):
        """Return what was asked of it: `init`, `tasks` (their resources) or `down`."""
        return json.loads(self.state.read_text()).get(name)
