"""mupcheck: does the learning rate found on a small Gated DeltaNet model hold on a large one?

The house, from the roof down. A folder is a floor: a file imports from its own folder or from one below it here.

    cli             commands: read options, call one function, print its answer
    terminal        what a person sees in a terminal: the console, progress, one page an answer
    report          what a person sends on: one HTML page, from answers alone                        (judging)
    plots           what a person looks at: figures, from answers alone                              (judging)
    looks           what figures and page share: how widths and tables look                          (judging)
    gate            verdicts against what is expected of them, for CI; the pytest plugin             (judging)
    proof           can the code and the judge be trusted: identities, planted faults
    bench           how fast the op, a step and a check are, beside others and the machine's best
    audit           a user's own model file, built and trained at several widths                     (measuring)
    sweep           a sweep from its spec to files: plan, runner, engines                            (measuring)
    training        one group of runs, trained: data, optimizers, a generator of step rows           (measuring)
    roles           what every parameter of any torch model is, and a table applied to it            (measuring)
    recording       coordinate sizes of any torch model, in its user's own loop                      (measuring)
    measuring       coordinate sizes of a model while it trains                                      (measuring)
    model           our Gated DeltaNet language model over [R, ...]                                  (measuring)
    ops             the gated delta rule and its backends                                            (measuring)
    coordinates     the verdict on coordinate sizes                                                  (judging)
    learning_rates  the verdict on learning rates                                                    (judging)
    imported        numbers that others measured: tables and frames as runs and sizes                (judging)
    results         Parquet on disk, the only place where measuring and judging meet
    spec            what a model, a run and a sweep are
    theory          THE table of exponents, what is required, what a table implies

Measuring needs torch and never matplotlib, judging pandas and never torch. To read first: theory/parametrization.py,
spec, training/train.py, coordinates/judge.py, learning_rates/drift.py.

What is new goes where its kind is: a site to model/gdn.py (where it is made), theory/required.py and
theory/propagation.py (what is required and implied); an optimizer to training/optim.py, and a column of every table in
theory/parametrization.py; a data source to a file of its own in training/data/, named in training/data/sources.py; a
line of a verdict to coordinates/ or learning_rates/ (the fact) and terminal/ (how it is said); an engine to
sweep/engines/, a topic to theory/topics/.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mupcheck.coordinates.judge import Judgement, judge
    from mupcheck.coordinates.slopes import fit_slopes
    from mupcheck.gate.difference import Difference, diff
    from mupcheck.learning_rates.drift import Transfer, find_optima, fit_drift, transfer
    from mupcheck.model import build_model
    from mupcheck.ops import gated_delta_rule
    from mupcheck.plots import figures
    from mupcheck.recording.recorder import Recorder
    from mupcheck.results.reading import Results, load_results
    from mupcheck.roles.infer import fused_rows, infer_roles
    from mupcheck.roles.parametrize import parametrize
    from mupcheck.spec.model import ModelSpec
    from mupcheck.spec.reading import load_sweep, make_sweep
    from mupcheck.spec.run import RunSpec
    from mupcheck.spec.sweep import SweepSpec
    from mupcheck.sweep.engines.ray import Ray
    from mupcheck.sweep.engines.sbatch import Slurm
    from mupcheck.sweep.limits import Limits
    from mupcheck.sweep.runner import run_sweep
    from mupcheck.theory.rules_file import find_table, rules

    __version__: str

# Nothing is imported until it is asked for: the judging half needs no torch, the measuring half no pandas. No name here
# is that of a folder, as importing that would put the module in the name's place.
_HOMES = {
    "ModelSpec": "spec.model",
    "RunSpec": "spec.run",
    "SweepSpec": "spec.sweep",
    **dict.fromkeys(("load_sweep", "make_sweep"), "spec.reading"),
    **dict.fromkeys(("find_table", "rules"), "theory.rules_file"),
    **dict.fromkeys(("Judgement", "judge"), "coordinates.judge"),
    "Recorder": "recording.recorder",
    "fit_slopes": "coordinates.slopes",
    **dict.fromkeys(("Difference", "diff"), "gate.difference"),
    **dict.fromkeys(("Transfer", "find_optima", "fit_drift", "transfer"), "learning_rates.drift"),
    "build_model": "model",
    "gated_delta_rule": "ops",
    "Limits": "sweep.limits",
    "Ray": "sweep.engines.ray",
    "Slurm": "sweep.engines.sbatch",
    "run_sweep": "sweep.runner",
    "figures": "plots",
    **dict.fromkeys(("fused_rows", "infer_roles"), "roles.infer"),
    "parametrize": "roles.parametrize",
    **dict.fromkeys(("Results", "load_results"), "results.reading"),
}
__all__ = [
    "Difference",
    "Judgement",
    "Limits",
    "ModelSpec",
    "Ray",
    "Recorder",
    "Results",
    "RunSpec",
    "Slurm",
    "SweepSpec",
    "Transfer",
    "build_model",
    "diff",
    "figures",
    "find_optima",
    "find_table",
    "fit_drift",
    "fit_slopes",
    "fused_rows",
    "gated_delta_rule",
    "infer_roles",
    "judge",
    "load_results",
    "load_sweep",
    "make_sweep",
    "parametrize",
    "rules",
    "run_sweep",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("mupcheck.results.version").version()
    if name not in _HOMES:
        raise AttributeError(f"module 'mupcheck' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"mupcheck.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
