"""How what the gate says of a group was measured, in one line: it stands before the numbers."""

from mupcheck.coordinates.judge import Judgement
from mupcheck.learning_rates.drift import Transfer
from mupcheck.results.comparable import lr_text


def how_measured(answer: Judgement | Transfer) -> str:
    """Return sweep, optimizer, mode, widths, seeds, steps, data and the level of the intervals."""
    if isinstance(answer, Judgement):
        return answer.how_measured
    measured = getattr(answer, "measured", None)
    measured = measured if isinstance(measured, dict) else {}
    widths = measured.get("widths") or [optimum.width for optimum in answer.optima]
    seeds = measured.get("seeds") or range(max(optimum.n_seeds for optimum in answer.optima))
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    many = "s" * (len(seeds) > 1)
    log2_lrs = [point.log2_lr for optimum in answer.optima for point in optimum.curve]
    text = f"learning-rate sweep {answer.sweep}: {answer.optimizer}, {answer.mode}, "
    text += f"widths {', '.join(map(str, widths))} (base {answer.base_width}), {len(seeds)} seed{many}"
    text += f", lrs {lr_text(2.0 ** min(log2_lrs))} to {lr_text(2.0 ** max(log2_lrs))}"
    text += "".join(f", {name} {measured[name]}" for name in ("steps", "data") if name in measured)
    return f"{text}, {answer.drift.confidence:.0%} intervals of {answer.loss_name}"
