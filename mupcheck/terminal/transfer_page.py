"""What a person sees of a judgement on transfer: optima, what each costs the other widths, the verdict and the rest."""

from collections.abc import Iterator

from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.penalty import Penalty
from mupcheck.terminal.console import console, interval_text, number, styled, table_of
from mupcheck.terminal.topic_page import pointer


def print_transfer(answer: Transfer) -> None:
    """Print one parametrization's optimum per width, what each optimum costs the other widths, verdict and the rest."""
    out = console()
    table = table_of("width", "best lr", "log2 lr", "interval", "loss", "lr sensitivity", "diverges from", "flags")
    by_width = zip(
        answer.optima, answer.lr_sensitivity, answer.lr_sensitivity_ci, answer.divergence.log2_lr, strict=True
    )
    for optimum, sensitivity, sensitivity_ci, threshold in by_width:
        highest = optimum.curve[-1].log2_lr
        table.add_row(
            str(optimum.width),
            number(None if optimum.log2_lr is None else 2**optimum.log2_lr, ".3g"),
            number(optimum.log2_lr, "+.2f"),
            interval_text(optimum.ci_low, optimum.ci_high, "+.2f"),
            number(optimum.loss, ".4f"),
            number(sensitivity, ".3f") + " " + interval_text(*sensitivity_ci, ".3f"),
            f"> 2^{highest:.4g}" if threshold is None else f"2^{threshold:.4g}",
            ", ".join(optimum.flags),
        )
    out.print(table)
    widths = [optimum.width for optimum in answer.optima]
    costs = table_of("nats lost at", *(f"the best lr of {width}" for width in widths))
    unknown: dict[str, None] = {}
    for width in widths:
        cells = [penalty for penalty in answer.penalty if penalty.target == width]
        costs.add_row(f"width {width}", *(_cost(cell, among=len(widths)) for cell in cells))
        unknown |= dict.fromkeys(penalty.reason for penalty in cells if penalty.nats is None)
    out.print(costs)
    for reason in unknown:
        out.print(f"?: {reason}", soft_wrap=True)
    out.print(f"{answer.title}:", styled(answer.verdict), soft_wrap=True)
    drift = answer.drift
    interval = interval_text(drift.ci_low, drift.ci_high, "+.2f")
    measured = f"drift {number(drift.slope, '+.2f')} {interval} octaves per doubling of width, of {answer.loss_name}"
    if answer.reason.startswith("drift"):
        measured = answer.reason
    for line in dict.fromkeys(
        (measured, answer.reason, *_beside_the_verdict(answer), *answer.notes, *pointer(answer.verdict))
    ):
        out.print(f"  {line}", soft_wrap=True)


def _beside_the_verdict(answer: Transfer) -> Iterator[str]:
    """Yield a line for each of what does not enter the verdict on transfer."""
    divergence, fast, wider = answer.divergence, answer.fast_transfer, answer.wider_is_better
    if divergence.slope is None:
        yield f"drift of divergence: cannot tell, {divergence.reason}"
    else:
        interval = interval_text(divergence.ci_low, divergence.ci_high, "+.2f")
        yield f"drift of divergence: {divergence.slope:+.2f} {interval} octaves per doubling of width"
    agreements = [(pair.rms, pair) for pair in answer.agreement if pair.rms is not None]
    if agreements:
        rms, pair = max(agreements, key=lambda each: each[0])
        interval = interval_text(pair.ci_low, pair.ci_high, ".3f")
        yield (
            f"curves agree to {rms:.3f} {interval} nats at worst: rms difference above their minima, "
            f"widths {pair.narrow} and {pair.wide}, {pair.n_lrs} lrs"
        )
    elif answer.agreement:
        yield f"curves: cannot tell, {answer.agreement[0].reason}"
    names = {True: "useful", False: "not useful", None: "cannot tell"}
    exponents = [
        f"{name} {each.value:.2f} {interval_text(each.ci_low, each.ci_high, '.2f')}"
        for name, each in (("loss gap ~ width^-a, a =", fast.loss), ("lr gap ~ width^-b, b =", fast.optimum))
        if each.value is not None
    ]
    yield f"fast transfer: {names[fast.useful]}, {'; '.join([*exponents, fast.reason])}"
    share = "" if wider.share is None else f" (lower at {wider.share:.0%} of steps)"
    yield f"wider is better: {wider.verdict}{share}, {wider.reason}"


def _cost(penalty: Penalty, *, among: int) -> str:
    """Write a penalty with what a line of `among` of them has room for: all, no percent, or no interval either."""
    if penalty.nats is None or penalty.source == penalty.target:
        return number(penalty.nats, ".0f")
    text = f"{penalty.nats:.4f}"
    if among <= 4 and penalty.ci_low is not None:
        text += " " + interval_text(penalty.ci_low, penalty.ci_high, ".3f")
    return text + (f" ({number(penalty.percent, '.2f')}%)" if among <= 3 else "")
