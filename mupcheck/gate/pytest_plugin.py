"""A pytest plugin: the fixture `coord_check`, a coordinate check as a test.

    def test_mup(coord_check):
        coord_check("gdn-mup", "adamw", widths=[32, 64, 128, 256]).assert_passes()

pytest loads it in every session of an environment that has mupcheck, so it imports nothing until a test asks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mupcheck.coordinates.judge import Judgement
    from mupcheck.results.reading import Results
    from mupcheck.spec.sweep import SweepSpec

# As the README's gate has it: one layer and 12 seeds decide for the shipped tables in some 3 s on one core, and see
# a gate's lr that is off by 1/2 under SGD, which two layers and 8 seeds leave open. `mupcheck explain ci` has them too.
DEFAULTS = {"widths": (32, 64, 128, 256), "seeds": 12, "n_layers": 1, "record": (0, 1, 3), "data": "synthetic"}


@dataclass(frozen=True)
class CoordCheck:
    """The answer to one coordinate check.

    Attributes:
        results: the tables it was judged by.
        folder: where they are; `mupcheck plot` draws them.
        judgement: verdict, reason, slopes, findings and causes.
    """

    results: "Results"
    folder: Path
    judgement: "Judgement"

    @property
    def verdict(self) -> str:
        """Return pass, fail or cannot tell."""
        return self.judgement.verdict

    def assert_passes(self) -> None:
        """Fail the test unless the verdict is pass, and say why and what to do."""
        __tracebackhide__ = True
        self._assert("pass")

    def assert_fails(self) -> None:
        """Fail the test unless the verdict is fail: a table that is known to be wrong must be seen to be."""
        __tracebackhide__ = True
        self._assert("fail")

    def _assert(self, expected: str) -> None:
        __tracebackhide__ = True
        from mupcheck.gate.check import check_results
        from mupcheck.gate.report import OK, explain

        (checked,) = check_results(self.results, expect=expected).groups
        if checked.outcome != OK:
            lines = [f"coordinate check of {checked.title}: {checked.headline}", self.judgement.how_measured]
            lines += explain(checked)
            lines.append(f"to see it: mupcheck check {self.folder} --all, or mupcheck plot {self.folder}")
            topic = "cannot-tell" if checked.verdict == "cannot tell" else "slopes"
            lines.append(f"what it means: mupcheck explain {topic}")
            raise AssertionError("\n  ".join(lines))


@pytest.fixture(scope="session")
def _coord_checks() -> dict[str, CoordCheck]:
    """Return this session's answers: an equal check is not trained twice."""
    return {}


@pytest.fixture
def coord_check(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _coord_checks: dict[str, CoordCheck]
) -> Callable[..., CoordCheck]:
    """Return a function that trains and judges a coordinate check of a parametrization, on one core.

    `coord_check(parametrization, optimizer="adamw", *, mode="head-dim", lr=None, jobs=1, device="cpu", **settings)`:
    the parametrization is a table's name, or a TOML file with one, beside the test file or from where pytest was
    started; settings are keys of a sweep file, such as widths, seeds, record, data, n_layers or n_heads (default:
    widths 32 to 256, 12 seeds, one layer, steps 0, 1 and 3, synthetic data). Equal checks of a session are trained
    once. It returns a `CoordCheck`. More: `mupcheck explain ci`.

    Of your own model: `coord_check(build, optimizer, *, lr=None, **settings)`, with `build(width)` that returns a
    module, `optimizer(model)`, and of `loss(model, batch)`, `batch(seed)`, widths, seeds, record, top_up and budget
    what is not to be as in `mupcheck audit`; or with a file that has these functions in the place of `build`.
    """

    def check(
        parametrization: str | Callable[[int], Any],
        optimizer: str | Callable[[Any], Any] | None = None,
        *,
        mode: str = "head-dim",
        lr: float | None = None,
        jobs: int = 1,
        device: str = "cpu",
        **settings: Any,
    ) -> CoordCheck:
        if callable(parametrization) or parametrization.endswith(".py"):
            given = {**settings, "optimizer": optimizer, "lr": lr}
            return _audit(
                parametrization, given, beside=request.path.parent, out=tmp_path_factory.mktemp("coord_check")
            )
        from mupcheck.spec.reading import make_sweep
        from mupcheck.theory.parametrization import table_to_json

        beside = request.path.parent / parametrization
        given = {
            **DEFAULTS,
            "kind": "coord",
            "parametrizations": (str(beside) if beside.is_file() else parametrization,),
            "optimizer": optimizer or "adamw",
            "mode": mode,
            **({} if lr is None else {"lrs": (lr,)}),
            **settings,
        }
        try:
            sweep = make_sweep(given, device="cpu" if device == "cpu" else "cuda")
        except ValueError as error:
            said = f"coord_check: {error} (mupcheck explain ci)"
            raise pytest.fail.Exception(said, pytrace=False) from None  # or pytest shows both
        key = f"{device} {sweep.model_dump_json()} {[table_to_json(table) for table in sweep.tables]}"
        if key not in _coord_checks:
            _coord_checks[key] = _train(sweep, tmp_path_factory.mktemp("coord_check"), jobs=jobs, device=device)
        return _coord_checks[key]

    return check


def _train(sweep: "SweepSpec", out: Path, *, jobs: int, device: str) -> CoordCheck:
    """Train and judge a sweep."""
    from mupcheck.coordinates.judge import judge
    from mupcheck.sweep.runner import run_sweep

    results = run_sweep(sweep, out=out, jobs=jobs, device=device)
    (judgement,) = judge(results)
    return CoordCheck(results, out / sweep.name, judgement)


def _audit(model: str | Callable[[int], Any], given: dict[str, Any], *, beside: Path, out: Path) -> CoordCheck:
    """Train and judge a user's own model, given by `build` and other functions, or by a file beside the test."""
    from mupcheck.audit.run import audit, plan_audit
    from mupcheck.audit.user_file import NAMES, model_of, read_model_file
    from mupcheck.coordinates.judge import judge
    from mupcheck.results.reading import load_results

    try:
        if callable(model):
            functions = {name: given.pop(name, None) for name in NAMES if name != "build"}
            user = model_of({"build": model, **functions}, name=getattr(model, "__name__", "build"))
        else:
            user = read_model_file(beside / model if (beside / model).is_file() else Path(model))
            given = {name: value for name, value in given.items() if name != "optimizer"}
        plan = plan_audit(user, out=out, **given)
        audit(plan)
    except (ValueError, TypeError) as error:
        lines = [f"coord_check: {error} (mupcheck explain ci)", *getattr(error, "lines", ())]
        raise pytest.fail.Exception("\n".join(lines), pytrace=False) from None  # or pytest shows both
    results = load_results(plan.folder)
    (judgement,) = judge(results)
    return CoordCheck(results, plan.folder, judgement)
