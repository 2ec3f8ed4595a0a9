"""check: judge stored results for CI."""

from pathlib import Path
from typing import Annotated

import typer

from mupcheck.cli.exits import CANNOT_TELL, FAILED, OK
from mupcheck.cli.options import All, Expect, Json, Markdown, Stored, Strict, option
from mupcheck.cli.stores import read_from
from mupcheck.cli.typed import called
from mupcheck.terminal.console import say


def check(
    path: Annotated[Path, Stored] = Path("results"),
    baseline: Annotated[Path | None, option("--baseline", "Stored slopes to compare coordinate checks with. (default: none)", metavar="FILE")] = None,
    update_baseline: Annotated[bool, typer.Option("--update-baseline", help="Write --baseline FILE from what is there, if it is as expected.", show_default=False)] = False,
    junit: Annotated[Path | None, option("--junit", "Write JUnit XML here. (default: none)", metavar="FILE")] = None,
    markdown: Markdown = None,
    expect: Expect = None, json: Json = False, strict: Strict = False, every: All = False,
) -> None:  # fmt: skip
    """Judge everything under PATH against theory and, with a baseline, against stored slopes; exit with 1 if it fails, 3 if it cannot tell.

    Example: mupcheck check results/ --baseline sweeps/baseline.txt
    """
    from mupcheck.gate.check import check as check_folder
    from mupcheck.gate.check import is_one_sweep, renew_baseline
    from mupcheck.results.leftovers import say_leftovers
    from mupcheck.results.status import say_first
    from mupcheck.spec.reading import call
    from mupcheck.terminal import check_page

    if update_baseline and baseline is None:
        raise ValueError("--update-baseline needs to know which file; add --baseline FILE")
    path = read_from(path)
    try:
        report = check_folder(path, baseline=None if update_baseline else baseline, expect=expect)
    except ValueError as error:
        raise ValueError(call(str(error), {"expect": called("--expect")})) from None
    for line in say_first(path):
        say(line)
    for folder in sorted({path if is_one_sweep(path) else path / checked.sweep for checked in report.groups}):
        if leftovers := say_leftovers(folder):
            say(leftovers)
    if json:
        check_page.print_report_json(report)
    else:
        check_page.print_report(report, every=every)
    check_page.write_report(report, junit=junit, markdown=markdown, baseline=baseline, strict=strict)
    failed = report.outcome == "failed"
    try:
        if update_baseline and baseline is not None:
            say(renew_baseline(baseline, report, keep_other_sweeps=is_one_sweep(path)))
        elif report.unfit:
            raise ValueError(report.unfit[0])
    except ValueError as error:
        # a wrong file is a wrong command, and hides no failure
        if not failed:
            raise
        say(f"error: {error}")
    code = {"ok": OK, "failed": FAILED, "cannot tell": FAILED if strict else CANNOT_TELL}[report.outcome]
    raise typer.Exit(code)
