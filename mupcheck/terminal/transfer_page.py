"""What a person sees of a judgement on transfer: the answer, a row a width and what to do; or, asked for, all of it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.learning_rates.penalty import Penalty
from mupcheck.learning_rates.wider import TENTHS
from mupcheck.results.comparable import name_of
from mupcheck.results.printing import counted
from mupcheck.terminal.bars import axis_of, legend_of_losses, loss_bars
from mupcheck.terminal.console import console, interval_text, number, table_of
from mupcheck.terminal.grid import Column, print_grid
from mupcheck.terminal.prose import print_prose
from mupcheck.terminal.topic_page import TOPIC_OF, pointer

WORDS = ("transfers", "drifts", "negligible", "costly", "cannot tell")


def print_answers(answers: Sequence[Transfer], *, every: bool) -> None:
    """Print both verdicts on each parametrization, then a table of all widths and what to do.

    Args:
        every: a page for each instead of the table: costs, sensitivity, divergence and how it was measured.
    """
    print_in_short(answers)
    if every:
        for answer in answers:
            print_transfer(answer)
        return
    _print_widths(answers)
    for answer in answers:
        _print_what_to_do(answer)
    if answers:
        topics = dict.fromkeys(TOPIC_OF[answer.verdict] for answer in answers)
        print_prose(f"(--all prints costs, flags and how it was measured; mupcheck explain {', '.join(topics)})")


def as_documents(answers: Sequence[Transfer]) -> list[dict[str, Any]]:
    """Return answers as JSON has them."""
    return [asdict(answer) | {"sentence": answer.sentence} for answer in answers]


def print_in_short(answers: Sequence[Transfer]) -> None:
    """Print both verdicts on each parametrization, a sentence each: what stands on top of all pages."""
    for answer in answers:
        print_prose(answer.sentence, verdicts=WORDS)
    console().print()


def _print_widths(answers: Sequence[Transfer]) -> None:
    """Print a row for each parametrization and width: the best lr, the loss there, and bars of loss against lr."""
    curves = [optimum.curve for answer in answers for optimum in answer.optima]
    if not any(curves):
        return
    axis = axis_of(point.log2_lr for curve in curves for point in curve)
    levels = {f"{answer.measured['confidence']:.0%} interval" for answer in answers}
    columns = (
        Column(""),
        Column("width", right=True),
        Column("best lr", right=True),
        Column("log2 lr", right=True),
        Column("/".join(sorted(levels)), right=True),
        Column("fitted loss", right=True),
        Column("loss by lr"),
    )
    names = [name_of(answer) for answer in answers]
    rows = []
    for answer, name in zip(answers, names, strict=True):
        for optimum in answer.optima:
            rows.append(
                (
                    name if names.count(name) == 1 else answer.title,
                    str(optimum.width),
                    number(None if optimum.log2_lr is None else 2**optimum.log2_lr, ".3g"),
                    number(optimum.log2_lr, "+.2f"),
                    interval_text(optimum.ci_low, optimum.ci_high, "+.2f"),
                    number(optimum.loss, ".4f"),
                    loss_bars(optimum.curve, axis),
                )
            )
    print_grid(columns, rows)
    print_prose(f"loss by lr: {legend_of_losses((row[-1] for row in rows), axis)}", indent=1)
    console().print()


def _print_what_to_do(answer: Transfer) -> None:
    """Print why a verdict is not the best there is and what to do, and what was asked for; nothing of one that is."""
    lines = []
    if answer.verdict != "transfers":
        lines.append(f"why: {answer.reason}")
    if do := _next(answer):
        lines.append(f"next: {do}")
    if answer.missing and answer.missing not in answer.reason:
        lines.append(f"in doubt: {answer.missing}")
    if answer.cost.verdict == "cannot tell" and len(answer.optima) > 1:
        lines.append(_verdict_on_cost(answer))
    if answer.target is not None:
        lines.append(answer.target.text)
    if answer.notes:
        more = f" (and {counted(len(answer.notes) - 1, 'more note')} on --all)" if len(answer.notes) > 1 else ""
        lines.append(f"note: {answer.notes[0]}{more}")
    if not any(lines):
        return
    print_prose(f"{answer.title}: {answer.verdict}", verdicts=WORDS)
    for line in filter(None, lines):
        print_prose(line, indent=2, verdicts=WORDS)


def _next(answer: Transfer) -> str:
    """Return what to do next, as the page of a sweep says it; "" for nothing, as where a drift transfers."""
    return "" if answer.verdict == "transfers" else answer.what_next


def _verdict_on_cost(answer: Transfer) -> str:
    """Return the verdict on the cost, why, and what decides it where that is not what is next."""
    of = answer.cost
    said = _next(answer) in (of.next_step, f"to tell the cost, {of.next_step}")
    decide = f"; {of.next_step}" if of.next_step and not said else ""
    return f"cost: {of.verdict} as {of.reason}{decide}"


def print_transfer(answer: Transfer) -> None:
    """Print one parametrization: title, optimum per width, what each costs the other widths, verdict and the rest."""
    print_prose(f"{name_of(answer)}, {answer.how_measured}")
    _print_optima(answer)
    if len(answer.optima) > 1:
        _print_costs(answer)
    print_prose(f"{answer.title}: {answer.verdict}", verdicts=WORDS)
    lines = [answer.reason, answer.drift_text]
    if answer.reason.startswith("drift"):
        lines = [answer.reason]
    # of one width there is nothing more to say, and what is said while runs are missing changes with them
    beside = () if len(answer.optima) == 1 or answer.missing else _beside_the_verdict(answer)
    for line in dict.fromkeys(filter(None, lines)):
        print_prose(line, indent=2)
    if do := _next(answer):
        print_prose(f"next: {do}", indent=2)
    if len(answer.optima) > 1:
        print_prose(_verdict_on_cost(answer), indent=2, verdicts=WORDS)
    if answer.target is not None:
        print_prose(answer.target.text, indent=2)
    for line in (*beside, *answer.notes, *pointer(answer.verdict)):
        print_prose(line, indent=2)


def _print_optima(answer: Transfer) -> None:
    level = f"{answer.measured['confidence']:.0%} interval"
    columns = ("width", "best lr", "log2 lr", level, "fitted loss", "lowest measured", "lr sensitivity", "diverges")
    table = table_of(*columns, "flags")
    table.padding = (0, 1, 0, 0)  # nine columns in the width of a pipe
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
            _lowest(optimum),
            number(sensitivity, ".3f") + " " + interval_text(*sensitivity_ci, ".3f"),
            f"> 2^{highest:.4g}" if threshold is None else f"2^{threshold:.4g}",
            ", ".join(optimum.flags),
        )
    console().print(table)


def _lowest(optimum: Optimum) -> str:
    """Write the lowest mean loss that was measured, and at which lr."""
    point = optimum.lowest
    return "?" if point is None else f"{number(point.loss, '.4f')} at 2^{point.log2_lr:.4g}"


def _print_costs(answer: Transfer) -> None:
    """Print what each width's best lr costs every width, and why where that is not known."""
    out = console()
    widths = [optimum.width for optimum in answer.optima]
    costs = table_of("nats lost at", *(f"the best lr of {width}" for width in widths))
    unknown: dict[str, None] = {}
    for width in widths:
        cells = [penalty for penalty in answer.penalty if penalty.target == width]
        costs.add_row(f"width {width}", *(_cost(cell, among=len(widths)) for cell in cells))
        unknown |= dict.fromkeys(penalty.reason for penalty in cells if penalty.nats is None)
    out.print(costs)
    for reason in unknown:
        print_prose(f"?: {reason}")


def _beside_the_verdict(answer: Transfer) -> Iterator[str]:
    """Yield a line for each of what does not enter the verdict on transfer."""
    divergence, fast = answer.divergence, answer.fast_transfer
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
    yield _wider(answer)


def _wider(answer: Transfer) -> str:
    """Say whether wider is better, and over what its shares and tenths are counted."""
    wider = answer.wider_is_better
    compared = [each for each in wider.comparisons if each.share is not None]
    if wider.share is None or not compared:
        return f"wider is better: {wider.verdict}, {wider.reason}"
    n_pairs, n_parts = len({(each.narrow, each.wide) for each in compared}), max(len(each.nats) for each in compared)
    over = f"{len(compared)} comparisons at one lr each, of {n_pairs} pair{'s' * (n_pairs > 1)} of widths"
    over += f", in {n_parts} {'tenths' if n_parts == TENTHS else 'parts'} of training"
    return f"wider is better: {wider.verdict} (lower at {wider.share:.0%} of steps; {over}), {wider.reason}"


def _cost(penalty: Penalty, *, among: int) -> str:
    """Write a penalty with what a line of `among` of them has room for: all, no percent, or no interval either."""
    if penalty.nats is None or penalty.source == penalty.target:
        return number(penalty.nats, ".0f")
    text = f"{penalty.nats:.4f}"
    if among <= 4 and penalty.ci_low is not None:
        text += " " + interval_text(penalty.ci_low, penalty.ci_high, ".3f")
    return text + (f" ({number(penalty.percent, '.2f')}%)" if among <= 3 else "")
