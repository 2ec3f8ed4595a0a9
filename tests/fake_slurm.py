"""sbatch, squeue, scancel, scontrol and sacct as small scripts that run array tasks on this machine.

State is a folder with a file a task: name, state and process. A task that is not queued or running has no file there,
as with the real ones, and one in `ended`, which sacct reads. A file `down` makes squeue fail, as without a controller.
"""

import json
import os
import sys
from pathlib import Path

SCRIPT = """#!{python} -SE
import fcntl, glob, json, os, re, shlex, signal, subprocess, sys, time
STATE = {state!r}
def load(path):
    try:
        return json.load(open(path))
    except (OSError, ValueError):
        return None
def save(path, task):
    with open(path + ".new", "w") as file:
        json.dump(task, file)
    os.replace(path + ".new", path)
def tasks():
    found = [(path, load(path)) for path in sorted(glob.glob(STATE + "/*.task"))]
    return [(path, task) for path, task in found if task]
{body}
"""
SBATCH = """
with open(STATE + "/lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    script = sys.argv[-1]
    lines = [line for line in open(script) if line.startswith("#SBATCH")]
    given = dict(part.partition("=")[::2] for line in lines for part in shlex.split(line)[1:])
    if given.get("--partition") == "nowhere":
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    job = len(glob.glob(STATE + "/*.submitted")) + 1
    save(f"{STATE}/{job}.submitted", given)
    first, last, at_a_time = re.fullmatch(r"(\\d+)-(\\d+)(?:%(\\d+))?", given["--array"]).groups()
    names = [f"{STATE}/{job}_{i}.task" for i in range(int(first), int(last) + 1)]
    for i, name in enumerate(names):
        save(name, {"name": given["--job-name"], "job": job, "task": i, "state": "PENDING", "pid": 0})
print(f"{job};cluster")
sys.stdout.flush()
if os.fork():
    os._exit(0)
os.setsid()
null = os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(null, stream)
while os.path.exists(STATE + "/hold"):
    time.sleep(0.05)
for name in names:
    again = True
    while again:
        if not (task := load(name)):
            break
        ids = {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_JOB_ID": f"{job}_{task['task']}"}
        env = os.environ | ids | {"SLURM_ARRAY_TASK_ID": str(task["task"])}
        log = open(given["--output"].replace("%a", str(task["task"])), "a")
        child = subprocess.Popen(["/bin/sh", script], stdout=log, stderr=log, env=env, cwd=given["--chdir"])
        save(name, task | {"state": "RUNNING", "pid": child.pid})
        code = child.wait()
        again = os.path.exists(name + ".requeue")
        if again:
            os.unlink(name + ".requeue")
    if task:
        state = "COMPLETED" if code == 0 else "CANCELLED" if code < 0 else "FAILED"
        save(name.removesuffix("task") + "ended", task | {"state": state})
        os.unlink(name)
"""
SQUEUE = """
if os.path.exists(STATE + "/down"):
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
wanted = next(part for part in sys.argv if part.startswith("--name=")).partition("=")[2].split(",")
for _, task in tasks():
    if task["name"] in wanted:
        print(f"{task['name']}|{task['task']}|{task['state']}|None")
"""
SCANCEL = """
for path, task in tasks():
    if sys.argv[1] in (str(task["job"]), f"{task['job']}_{task['task']}", task["name"]):
        os.unlink(path) if not task["pid"] else os.kill(task["pid"], signal.SIGTERM)
"""
SCONTROL = """
if sys.argv[1] == "requeue":
    open(f"{STATE}/{sys.argv[2]}.task.requeue", "w")
else:
    print("MaxArraySize            = 1001")
"""
SACCT = """
job = next(part for part in sys.argv if part.startswith("--jobs=")).partition("=")[2]
task = load(f"{STATE}/{job}.ended")
print(task["state"] if task else "")
"""
COMMANDS = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "scontrol": SCONTROL, "sacct": SACCT}


class FakeSlurm:
    """A cluster in a folder; `path` is its PATH, with the commands that are asked for before all others."""

    def __init__(self, folder: Path, commands=tuple(COMMANDS)) -> None:
        self.state, programs = folder / "state", folder / "bin"
        self.state.mkdir(parents=True)
        programs.mkdir()
        for name in commands:
            file = programs / name
            file.write_text(
                SCRIPT.replace("{python}", sys.executable)
                .replace("{state!r}", repr(str(self.state)))
                .replace("{body}", COMMANDS[name])
            )
            file.chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"

    def submitted(self) -> list[dict[str, str]]:
        """Return the options of each job that was submitted."""
        files = sorted(self.state.glob("*.submitted"), key=lambda file: int(file.stem))
        return [json.loads(file.read_text()) for file in files]

    def queue(self) -> list[dict]:
        """Return what is queued or runs."""
        return [json.loads(file.read_text()) for file in sorted(self.state.glob("*.task"))]

    def hold(self, on: bool = True) -> None:
        """Let no task start, or let them."""
        (self.state / "hold").touch() if on else (self.state / "hold").unlink(missing_ok=True)

    def down(self, on: bool = True) -> None:
        """Let squeue fail, or not."""
        (self.state / "down").touch() if on else (self.state / "down").unlink(missing_ok=True)
