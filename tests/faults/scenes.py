"""What a command is doing when something goes wrong: a folder as it is before, the command, and what it gives alone."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from commands import Answer
from forked import answer
from points import Fault
from tables import differences, mixed, write_sweep_file

from mupcheck.results.reading import Results, load_results

HERE = ("--device", "cpu", "--jobs", "1", "--exact")
JUDGED = (0, 1, 3)  # exit codes of a sweep that is complete


@dataclass(frozen=True)
class Scene:
    """One command at work.

    Attributes:
        name: what it does.
        place: holds `before`, the results folder as it is before, and `out`, where it is disturbed.
        arguments: the command.
        resumed: the command that goes on.
        whole: the runs that it gives undisturbed.
        known: those and the ones that were there before.
        specs: each spec's runs.
        points: what it does to the disk, undisturbed, as "kind path".
    """

    name: str
    place: Path
    arguments: tuple[str, ...]
    resumed: tuple[str, ...]
    whole: Results
    known: Results
    specs: tuple[Results, ...]
    points: tuple[str, ...] = ()

    @property
    def out(self) -> Path:
        return self.place / "out"

    @property
    def folder(self) -> Path:
        return self.out / "s"

    def disturb(self, what: str, at: int, *, stays: bool = False, plant: Callable[[], None] | None = None) -> Answer:
        """Do it anew with a fault at a point, and maybe something else changed."""
        reset(self.place)
        fault = Fault(str(self.out), str(self.place / "log"), what, at, stays)
        return answer(*self.arguments, fault=fault, plant=plant)

    def faults_now(self) -> list[str]:
        """Return what is wrong with the runs that are there."""
        return differences(self.folder, self.known, complete=False) + mixed(self.folder, self.specs)

    def faults_when_resumed(self) -> list[str]:
        """Go on, and return what is not as undisturbed then."""
        resumed = answer(*self.resumed)
        wrong = [] if resumed.code in JUDGED else [f"going on ends with {resumed.code}: {resumed.err[-300:]}"]
        return wrong + differences(self.folder, self.whole, complete=True)


def reset(place: Path) -> None:
    shutil.rmtree(place / "out", ignore_errors=True)
    shutil.copytree(place / "before", place / "out")


def first(place: Path) -> Scene:
    """The first call of a coordinate check."""
    file = write_sweep_file(place / "s.toml", kind="coord", lrs="[0.01]", seeds=2, extra="record = [0, 1]")
    return _made("first", place, file)


def fresh(place: Path) -> Scene:
    """A sweep that is there, trained again."""
    file = write_sweep_file(place / "s.toml")
    return _made("--fresh", place, file, before=[file], more=("--fresh",))


def other_spec(place: Path) -> Scene:
    """A spec again whose runs were set aside in part, while others of its name lie there."""
    file = write_sweep_file(place / "s.toml", lrs="[0.01, 0.02]")
    other = write_sweep_file(place / "other.toml", lrs="[0.02, 0.04]")
    return _made("an earlier spec", place, file, before=[file, other])


SCENES = (first, fresh, other_spec)


def _made(name: str, place: Path, file: Path, *, before: list[Path] = (), more: tuple[str, ...] = ()) -> Scene:
    at = ("--out", str(place / "out"), *HERE)
    out = place / "before"
    out.mkdir()
    earlier = []
    for each in before:
        assert answer("run", each, "--out", out, *HERE).code in JUDGED
        earlier.append(load_results(out / "s"))
    arguments = ("run", str(file), *at, *more)
    reset(place)
    done = answer(*arguments, fault=Fault(str(place / "out"), str(place / "log")))
    assert done.code in JUDGED, done.err
    whole = load_results(place / "out" / "s")
    points = tuple((place / "log").read_text().splitlines())
    resumed = ("run", str(file), *at)
    return Scene(name, place, arguments, resumed, whole, _union([whole, *earlier]), (whole, *earlier), points)


def _union(results: list[Results]) -> Results:
    import pandas as pd

    def of(name: str, keys: list[str]) -> pd.DataFrame:
        return pd.concat([getattr(each, name) for each in results]).drop_duplicates(keys)

    coords = ["run_id", "step", "layer", "site", "kind", "stat"]
    return Results(of("runs", ["run_id"]), of("steps", ["run_id", "step"]), of("coords", coords), {})


def scenes(place: Path, makers: tuple = SCENES) -> Iterator[Scene]:
    """Yield each scene, in a folder of its own under place."""
    for make in makers:
        (place / make.__name__).mkdir()
        yield make(place / make.__name__)


def every(scene: Scene, share: float, draw) -> list[int]:
    """Return the points to try, all of them or a share drawn at random."""
    indices = range(len(scene.points))
    return list(indices) if share == 1 else sorted(draw.sample(indices, max(1, round(share * len(indices)))))
