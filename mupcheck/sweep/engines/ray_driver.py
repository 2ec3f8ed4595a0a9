"""The process that speaks to Ray for engines/ray.py: `python -m ... ADDRESS CPUS GPUS CORES`.

CORES are those of a cluster that it starts, 0 where there is one at the address. It takes lines of JSON, one a group:
`number`, `folder`, `key`, `task`, `device`, `seconds`. It answers with lines of JSON: `imported` once Ray is, `slots`
(groups that there is room for) when that changes, `number` with what became of that group (`node`, or `error` with
`killed` or `traceback`), `note`, and `fault`, after which it ends. It ends when its stdin does, with its tasks, and
with a cluster that it started.
"""

import json
import os
import queue
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

TRIES = 5  # of a group whose node dies
CONNECT_SECONDS = 10.0
LOOK_SECONDS = 15.0  # for all nodes to say whether they see the folder
BETWEEN_COUNTS = 2.0
STORE_BYTES = (
    80_000_000  # of a cluster of this machine: nothing goes through Ray's store, and this is the least it takes
)


# --- on a node: sent by value, so that one without mupcheck can say so ------------------------------------------------


def train(folder: str, key: str, task: int, device: str, seconds: float | None) -> tuple[str, list[str]]:
    """Work through a task of a portion, and return the node's name and its errors."""
    import os
    from pathlib import Path

    node = os.uname().nodename
    try:
        from mupcheck.sweep.portion import read_portion
        from mupcheck.sweep.work import work
    except ImportError as error:
        return node, [f"node {node}: {error}; install mupcheck there as it is here"]
    try:
        return node, work(read_portion(Path(folder), key), task, device=device, jobs=1, seconds=seconds)
    except (ValueError, OSError) as error:
        return node, [f"node {node}: {error}"]


def sees(folder: str, key: str) -> tuple[str, bool]:
    """Return a node's name, and whether it sees a portion that was just written; a shared disk may be a moment late."""
    import os
    import time

    end = time.monotonic() + 5
    while not os.path.exists(os.path.join(folder, "work", key, "plan.json")):
        if time.monotonic() > end:
            return os.uname().nodename, False
        time.sleep(0.2)
    return os.uname().nodename, True


# --- here -------------------------------------------------------------------------------------------------------------


class Fault(Exception):
    """What ends this process, in one line for who asked."""


class Driver:
    """The groups that were handed in, by the object that Ray gave for each."""

    def __init__(self, ray: Any, address: str, cpus: float, gpus: float, out: Any, *, grows: bool) -> None:
        self.ray, self.address, self.out, self.grows = ray, address, out, grows
        self.needed = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        how = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        # Ray ends a process after each task with a GPU, which gives all of it back
        self.train = ray.remote(train).options(**how)
        self.running: dict[Any, tuple[dict[str, Any], int]] = {}  # what it is, and the how manieth try
        self.slots, self.counted_at, self.looked = -1, 0.0, False

    def say(self, **what: Any) -> None:
        """Answer with one line."""
        print(json.dumps(what), file=self.out, flush=True)

    def count(self) -> None:
        """Say how many groups there is room for, if that changed."""
        if time.monotonic() - self.counted_at < BETWEEN_COUNTS:
            return
        self.counted_at = time.monotonic()
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        slots = sum(
            min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in self.needed.items()) for node in nodes
        )
        if slots == self.slots:
            return
        if not slots:
            needs = " and ".join(f"{amount:g} {kind}" for kind, amount in self.needed.items())
            has = "; ".join(", ".join(f"{node.get(kind, 0):g} {kind}" for kind in self.needed) for node in nodes)
            said = f"no node of the Ray cluster at {self.address} has the {needs} that a group needs ({has or 'none'})"
            if not self.grows:
                raise Fault(f"{said}; ask for less with --ray-cpus or --ray-gpus")
            self.say(note=f"{said}; waiting for one")
        self.slots = slots
        self.say(slots=slots)

    def hand_in(self, group: dict[str, Any], tries: int = 1) -> None:
        """Let a group be trained by whichever node has room."""
        if not self.looked:
            self.look(group["folder"], group["key"])
            self.looked = True
        told = (group["folder"], group["key"], group["task"], group["device"], group["seconds"])
        self.running[self.train.remote(*told)] = (group, tries)

    def look(self, folder: str, key: str) -> None:
        """Ask every node whether it sees the sweep's folder; one that does not would fail group after group at once.

        Raises:
            Fault: naming those that do not.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = []
        for node in self.ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                how = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
                asked.append(self.ray.remote(sees).options(**how).remote(folder, key))
        blind = set()
        for answer in self.ray.wait(asked, num_returns=len(asked), timeout=LOOK_SECONDS)[0]:
            with suppress(self.ray.exceptions.RayError):  # it just went
                name, seen = self.ray.get(answer)
                blind |= set() if seen else {name}
        if blind:
            names = ", ".join(sorted(blind)[:5])
            raise Fault(
                f"{len(blind)} of the Ray cluster's nodes ({names}) do not see {folder}; give --out on a disk that all "
                "of them share, at the same path"
            )

    def follow(self, seconds: float) -> None:
        """Wait for groups to end, a while, and say how they did."""
        if not self.running:
            return
        errors = self.ray.exceptions
        for answer in self.ray.wait(list(self.running), timeout=seconds)[0]:
            group, tries = self.running.pop(answer)
            told: dict[str, Any]
            try:
                node, said = self.ray.get(answer)
                told = {"node": node, **({"error": "; ".join(said)} if said else {})}
            except (errors.NodeDiedError, errors.LocalRayletDiedError) as error:
                if tries < TRIES:
                    self.say(note="a node died; its group goes to another")
                    self.hand_in(group, tries + 1)
                    continue
                told = {"error": f"its node died, {tries} times: {line_of(error)}"}
            except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
                # one whose node goes may look like that first; what was too large is so again
                if tries == 1 and not isinstance(error, errors.OutOfMemoryError):
                    self.hand_in(group, tries + 1)
                    continue
                told = {"error": f"its process was ended (out of memory?): {line_of(error)}", "killed": True}
            except errors.RayTaskError as error:
                cause = getattr(error, "cause", None) or error
                told = {"error": f"{type(cause).__name__}: {line_of(cause)}", "traceback": str(error)}
            except errors.RayError as error:
                told = {"error": f"{type(error).__name__}: {line_of(error)}"}
            self.say(number=group["number"], **told)


def line_of(error: BaseException) -> str:
    """Return the first line of an error, without an end."""
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def connect(address: str, cores: int) -> Any:
    """Join the cluster at an address, or start one here, and return the module.

    Raises:
        Fault: if there is none.
    """
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not cores and address != "auto":
        try:  # at once what Ray takes minutes for
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise Fault(f"no Ray answers at {address}: {why}; RAY_ADDRESS or --ray-address gives another") from None
    how: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if cores:
        how |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        ray.init(**how)
    except Exception as error:
        name = type(error).__name__
        if isinstance(error, ConnectionError) and address == "auto":
            raise Fault("no Ray runs on this machine; start it with `ray start`, or leave --ray-address out") from error
        raise Fault(f"Ray at {address} does not let us in: {name}: {line_of(error)}") from error
    return ray


def main() -> None:
    """Do what the lines of stdin say until they end."""
    address, cpus, gpus, cores = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    # what Ray and its workers print goes where errors go
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()
    try:
        try:
            import ray
        except Exception as error:
            raise Fault(f"Ray cannot be imported: {line_of(error)}; try pip install 'mupcheck[ray]'") from error
        print('{"imported": true}', file=out, flush=True)
        driver = Driver(connect(address, cores), address, cpus, gpus, out, grows=not cores)
        while True:
            driver.count()
            # handed in at once, followed a moment at a time
            with suppress(queue.Empty):
                while (group := inbox.get(timeout=0 if driver.running else 0.1)) is not None:
                    driver.hand_in(group)
                break
            driver.follow(0.1)
        for answer in driver.running:
            with suppress(Exception):
                ray.cancel(answer, force=True)
        ray.shutdown()
    except Fault as fault:
        print(json.dumps({"fault": str(fault)}), file=out, flush=True)
        with suppress(Exception):
            ray.shutdown()
    except Exception:
        traceback.print_exc()
    # Ray's own threads may hold up an end in order
    sys.stderr.flush()
    os._exit(0)


def listen(inbox: "queue.Queue[dict[str, Any] | None]") -> None:
    """Take in lines; when they end, whoever asked is gone, and this process soon too, whatever Ray does."""
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put(None)
    time.sleep(4)
    os._exit(0)


if __name__ == "__main__":
    main()
