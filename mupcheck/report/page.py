"""The page: one HTML file with its charts, data, style and library in it; nothing is fetched, nothing is run from data.

Text goes in escaped, rows as JSON in which no tag can end, and a policy in the page forbids every request.
"""

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from mupcheck.report.against import Against
from mupcheck.report.content import Answer, Section
from mupcheck.report.tables import Grid

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
GOOD, BAD = ("good", "✓"), ("bad", "✗")
LOOKS = {
    **dict.fromkeys(("transfers", "negligible", "pass", "same"), GOOD),
    **dict.fromkeys(("drifts", "costly", "fail", "moved"), BAD),
}
UNSURE = ("unsure", "?")
WIDE = {"slopes", "drifts", "runs"}  # rows of figures that take all of the page's width
MOST_LINES = 12  # of an answer, beside its sentence


def page_of(
    sections: Sequence[Section],
    *,
    title: str,
    library: str,
    progress: Sequence[str] = (),
    refresh: float | None = None,
) -> str:
    """Return the page.

    Args:
        sections: of the sweeps, as `content.sections_of` returns them.
        title: of the page.
        library: JavaScript that defines vegaEmbed.
        progress: lines on sweeps that run.
        refresh: seconds after which the page loads itself anew; None for never.
    """
    resources = files("mupcheck.report")
    charts = [chart for section in sections for chart in section.charts]
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            *([] if refresh is None else [f'<meta http-equiv="refresh" content="{refresh:g}">']),
            f"<title>{escape(title)}</title>",
            f"<style>{resources.joinpath('page.css').read_text(encoding='utf-8')}</style></head><body>",
            *_head(sections, title, progress),
            "<main>",
            *(line for i, section in enumerate(sections) for line in _section(section, i)),
            "</main>",
            f'<script type="application/json" id="charts">{_json(charts)}</script>',
            f"<script>{_script(library)}</script>",
            f"<script>{_script(resources.joinpath('page.js').read_text(encoding='utf-8'))}</script>",
            "</body></html>",
            "",
        )
    )


def _json(value: object) -> str:
    """Return JSON that can stand in a script element: no tag begins or ends in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _script(source: str) -> str:
    """Return JavaScript in which the element that holds it does not end."""
    return source.replace("</script", "<\\/script")


def _head(sections: Sequence[Section], title: str, progress: Sequence[str]) -> Iterator[str]:
    """Yield what stands above the first answer."""
    yield f"<header><h1>{escape(title)}</h1>"
    yield from (f'<p class="progress" role="status">{escape(line)}</p>' for line in progress)
    if not sections:
        yield "<p>No run has finished yet; the page refreshes itself.</p>"
    if len(sections) > 1:
        links = "".join(f'<li><a href="#sweep-{i}">{escape(each.title)}</a></li>' for i, each in enumerate(sections))
        yield f'<nav aria-label="Sweeps"><ul>{links}</ul></nav>'
    yield "</header>"


def _section(section: Section, i: int) -> Iterator[str]:
    yield f'<section id="sweep-{i}" aria-labelledby="title-{i}"><h2 id="title-{i}">{escape(section.title)}</h2>'
    if section.question:
        yield f"<p><em>{escape(section.question)}</em></p>"
    if section.missing:
        yield f'<p class="missing"><strong>Not finished:</strong> {escape(section.missing)}</p>'
    yield '<ul class="answers">' + "".join(map(_answer, section.answers)) + "</ul>"
    yield f'<p class="quiet">{escape(section.terms)}</p>'
    if section.since is not None:
        yield from _since(section.since)
    main = [chart for chart in section.charts if chart["main"]]
    rest = [chart for chart in section.charts if not chart["main"]]
    if any(map(_shifts, main)):
        yield (
            '<p class="switch"><label><input type="checkbox"> subtract each width\'s loss at its optimum</label>'
            ' <span class="quiet">◆ optimum and interval; × seeds diverged; dots are seeds</span></p>'
        )
    yield '<div class="panels">' + "".join(map(_figure, main)) + "</div>"
    if not section.charts:
        yield "<p>There is nothing to draw: no run has finished with something measured.</p>"
    for under in dict.fromkeys(chart["under"] for chart in rest):
        figures = "".join(_figure(chart) for chart in rest if chart["under"] == under)
        yield f'<h3>{escape(under)}</h3><div class="panels">{figures}</div>'
    yield from map(_grid, section.grids)
    yield "<h3>Ledger</h3>" + "".join(map(_ledger, section.answers))
    yield "<h3>How it was measured</h3><dl>"
    yield from (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in section.facts)
    yield "</dl>"
    if section.command:
        yield f"<p>Again: <code>{escape(section.command)}</code></p>"
    yield "</section>"


def _answer(answer: Answer) -> str:
    why = answer.reason if answer.verdict != "pass" and not answer.cost else ""
    return _card(answer.verdict, answer.sentence, answer.next_step, cost=answer.cost, why=why)


def _card(verdict: str, sentence: str, next_step: str = "", *, cost: str = "", why: str = "") -> str:
    marks = _mark(verdict, "drift: " if cost and verdict not in LOOKS else "")
    marks += " " + _mark(cost, "cost: ") if cost else ""
    then = f'<p class="why">{escape(why)}</p>' if why else ""
    then += f'<p class="next">{escape(next_step)}</p>' if next_step else ""
    look = UNSURE if cost and cost not in LOOKS and LOOKS.get(verdict) == GOOD else LOOKS.get(verdict, UNSURE)
    return f'<li class="answer {look[0]}"><p class="sentence">{marks} {escape(sentence)}</p>{then}</li>'


def _mark(verdict: str, of: str = "") -> str:
    look, sign = LOOKS.get(verdict, UNSURE)
    return f'<span class="verdict {look}">{sign} {of}{escape(verdict)}</span>'


def _since(since: Against) -> Iterator[str]:
    """Yield what moved since A, below the answers."""
    yield f'<div class="since"><h3>What moved since A</h3><p class="quiet">A: {escape(since.name)}</p>'
    yield from (f'<p class="quiet">{escape(line)}</p>' for line in since.lines)
    if since.groups:
        yield '<ul class="answers">' + "".join(_card(*group) for group in since.groups) + "</ul>"
    yield from map(_grid, since.grids)
    yield "</div>"


def _grid(grid: Grid) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in grid.head)
    rows = "".join(
        ('<tr class="marked">' if i in grid.marked else "<tr>")
        + f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for i, row in enumerate(grid.rows)
    )
    caption, about = escape(grid.caption), escape(grid.about)
    return (
        f'<h3>{caption}</h3><p class="quiet">{about}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _ledger(answer: Answer) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in answer.lines[:MOST_LINES])
    left = len(answer.lines) - MOST_LINES
    more = f"<li>and {left} more; mupcheck check prints all</li>" if left > 0 else ""
    return (
        f"<details><summary>{escape(answer.name)}: {escape(answer.verdict)}</summary>"
        f"<p>{escape(answer.reason)}</p><ul>{lines}{more}</ul></details>"
    )


def _shifts(chart: dict) -> bool:
    """Say whether a chart has the parameter that the section's switch sets."""
    return any(parameter["name"] == "shifted" for parameter in chart["spec"].get("params", ()))


def _figure(chart: dict) -> str:
    name, title = escape(chart["name"]), escape(chart["title"])
    wide = ' class="wide"' if WIDE & chart["rows"].keys() else ""
    shifts = " data-shifts" if _shifts(chart) else ""
    return (
        f'<figure id="{name}"{wide}{shifts}><figcaption>{title}</figcaption><div class="view"></div>'
        f'<p class="note quiet">{"" if shifts else escape(chart["about"])}</p><div class="tools"></div>'
        '<details><summary>Data</summary><div class="scroll" tabindex="0"></div></details></figure>'
    )
