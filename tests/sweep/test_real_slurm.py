"""A real Slurm of one node, started here where its daemons are installed: what is cancelled, killed, queued again.

MUPCHECK_TEST_SLURM_CONF adds lines to slurm.conf, for a Slurm that does not lie where it was built for.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.results.reading import finished_runs, load_results
from mupcheck.sweep import runner
from mupcheck.sweep.engines import slurm
from mupcheck.sweep.engines.sbatch import Slurm, ended
from mupcheck.sweep.plan import plan_sweep

DAEMONS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(shutil.which(name) is None for name in DAEMONS), reason="no Slurm is installed"),
]
CONF = """
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
SlurmdPort={other_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=cpu Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


# accounting needs a database; the controller itself knows the same of tasks that ended a moment ago
SACCT = """#!/bin/sh
for option in "$@"; do case $option in --jobs=*) job=${option#--jobs=} ;; esac; done
scontrol --oneliner show job "$job" | sed -n 's/.*JobState=\\([A-Z_]*\\).*/\\1/p'
"""


class RealSlurm:
    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        port, other_port = free_port(), free_port()
        text = CONF.format(
            host=socket.gethostname(), user=getpass.getuser(), port=port, other_port=other_port, folder=folder
        )
        self.conf.write_text(text + os.environ.get("MUPCHECK_TEST_SLURM_CONF", "").replace(";", "\n") + "\n")
        self.controller = self.start("slurmctld")
        self.node = self.start("slurmd", "-N", "localhost")
        wait_for(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T"))
        self.ended = threading.Event()
        self.operator = threading.Thread(target=self.operate, daemon=True)
        self.operator.start()

    def start(self, name, *more):
        log = (self.folder / f"{name}.log").open("a")
        return subprocess.Popen([name, "-D", "-f", str(self.conf), *more], stdout=log, stderr=log)

    def call(self, *command):
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout

    def operate(self):
        """Do what an operator does where a controller that was killed gave a task a number that the node knows."""
        while not self.ended.wait(1):
            if "drain" in self.call("sinfo", "-h", "-o", "%T"):
                self.call("scontrol", "update", "NodeName=localhost", "State=RESUME")
            for line in self.call("squeue", "-h", "-r", "-t", "PENDING", "-o", "%F_%K %r").splitlines():
                if "held" in line:
                    self.call("scontrol", "release", line.split()[0])
                    self.call("scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")

    def restart_controller(self):
        self.controller.send_signal(signal.SIGKILL)
        self.controller.wait()
        self.controller = self.start("slurmctld")
        wait_for(lambda: self.call("squeue", "-h"))

    def kill(self, task):
        # a signal to a task that is only being started is lost
        def gone():
            self.call("scancel", "--signal=KILL", "--batch", task)
            return task not in self.running()

        wait_for(gone)

    def running(self) -> list[str]:
        return self.call("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%F_%K").split()

    def end(self):
        self.ended.set()
        self.operator.join()
        self.call("scancel", "-u", getpass.getuser())
        for daemon in (self.node, self.controller):
            daemon.terminate()
            daemon.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    # a task's socket lies in it, whose path has 107 characters at most, or nothing reaches the task
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
        monkeypatch.chdir(tmp_path)
        real = RealSlurm(Path(folder))
        yield real
        real.end()


def through(plan):
    def engine(plan, waiting):
        return slurm.execute(plan, waiting, slurm=Slurm(poll=0.5), say=lambda _: None)

    return [state.error for state in runner.execute(plan, engine=engine) if state.error]


@pytest.fixture(params=["sacct", "no sacct"])
def accounting(request, tmp_path, monkeypatch):
    """A sacct that knows how tasks ended, or none."""
    if request.param == "no sacct":
        which = shutil.which
        monkeypatch.setattr(shutil, "which", lambda name: None if name == "sacct" else which(name))
        return False
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sacct").write_text(SACCT)
    (tmp_path / "bin" / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return True


def test_an_array_is_complete_on_the_second_call_whatever_happened_to_it(cluster, accounting, tmp_path):
    # as few tasks as may each meet something else: the last waits, three of those between are left alone
    sweep = tiny(parametrizations=("gdn-mup",), widths=(16,), seeds=3)
    # in the same groups: the norm of gradients may round otherwise in another one, on a CPU too
    here, _ = trained(sweep, tmp_path / "local", jobs=1, exact=True)
    plan = plan_sweep(sweep, out=tmp_path / "a folder of 5%", here=False, jobs=2, exact=True)
    assert len(plan.groups) == 6
    slurm.submit(plan, plan.groups, Slurm(), say=lambda _: None)
    first, *_ = wait_for(cluster.running)
    job = first.partition("_")[0]
    cluster.call("scancel", f"{job}_5")
    cluster.kill(first)
    killed = int(first.partition("_")[2])
    assert wait_for(lambda: ended(job, killed) == "FAILED") if accounting else ended(job, killed) == ""
    again = wait_for(lambda: [task for task in cluster.running() if task != first])[0]
    cluster.call("scontrol", "requeue", again)
    wait_for(lambda: again not in cluster.running())
    cluster.restart_controller()
    cluster.call("scontrol", "update", f"JobId={again}", "StartTime=now")
    # this call follows what is queued, and submits what was cancelled or killed meanwhile
    errors = through(plan)
    assert through(plan_sweep(sweep, out=tmp_path / "a folder of 5%", here=False, jobs=2, exact=True)) == []
    assert len(errors) <= 1
    assert len(finished_runs(plan.folder)) == 6
    assert_same(numbers(load_results(plan.folder)), numbers(here))
