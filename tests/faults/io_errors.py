"""No space, a read-only disk and an I/O error at every point where a command changes the disk."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

from commands import Answer
from lines import Line
from points import REASONS
from scenes import JUDGED, SCENES, Scene, every, scenes
from tables import differences

STORAGE = 4
ASKED = "exit 4, path and cause; earlier runs intact"
LONGEST = 600  # characters of what is said of it


def measure(
    place: Path, *, share: float = 1.0, makers: tuple = SCENES, reasons: tuple = REASONS, seed: int = 0
) -> Iterator[Line]:
    """Let a share of the points of each scene fail, once and from there on; yield a line for each scene and reason."""
    draw = random.Random(seed)
    for scene in scenes(place, makers):
        for what in reasons:
            faults, n_tried = [], 0
            for at in every(scene, share, draw):
                for stays in (False, True):
                    n_tried += 1
                    found = faults_of(scene, scene.disturb(what, at, stays=stays), what)
                    found += scene.faults_now() + scene.faults_when_resumed()
                    how = "on and on" if stays else "once"
                    faults += [f"{what} {how} at point {at} ({scene.points[at]}): {fault}" for fault in found]
            says = f"{what} at each of those points ({scene.name})"
            yield Line(says, ASKED, f"{n_tried} tries, {len(faults)} faults", not faults, tuple(faults))


def faults_of(scene: Scene, given: Answer, what: str) -> list[str]:
    """Return what is wrong with how a command ended that met an error."""
    faults = []
    if "Traceback" in given.err:
        faults.append(f"a traceback: {given.err[-500:]}")
    cause = os.strerror(getattr(errno, what))
    said = [line for line in given.err.splitlines() if cause in line]
    named = any(str(scene.out) in line for line in said)
    if given.code in JUDGED and (named or not said):
        # it could do without, as of what is only tidied up: then nothing may be missing
        lacking = differences(scene.folder, scene.whole, complete=True)
        return faults + [f"exit {given.code}, yet {each}" for each in lacking]
    if given.code != STORAGE:
        faults.append(f"exit {given.code}: {given.err[-300:]}")
    if not named:
        faults.append(f"path and cause are not named in one line: {given.err[-300:]}")
    return faults + [f"a novel: {line[:100]}" for line in said if len(line) > LONGEST]
