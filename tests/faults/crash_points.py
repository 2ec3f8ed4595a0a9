"""A crash at every point of a command where it changes the disk, and the command again: the same table."""

import random
from collections.abc import Iterator
from pathlib import Path

from lines import Line
from points import CRASH, CRASHED
from scenes import SCENES, every, scenes

ASKED = "the same table after a resume"


def measure(place: Path, *, share: float = 1.0, makers: tuple = SCENES, seed: int = 0) -> Iterator[Line]:
    """Crash at a share of the points of each scene; yield a line for each."""
    draw = random.Random(seed)
    for scene in scenes(place, makers):
        faults = []
        tried = every(scene, share, draw)
        for at in tried:
            crashed = scene.disturb(CRASH, at)
            found = [] if crashed.code == CRASHED else [f"it ended with {crashed.code}"]
            found += scene.faults_now() + scene.faults_when_resumed()
            faults += [f"point {at} ({scene.points[at]}): {fault}" for fault in found]
        says = f"crash at each write, fsync, rename ... ({scene.name})"
        measured = f"{len(tried)} of {len(scene.points)} points, {len(faults)} faults"
        yield Line(says, ASKED, measured, not faults, tuple(faults))
