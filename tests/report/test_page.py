"""The page in a browser: it asks for nothing, draws what it holds, answers to its switches, and is legible."""

import csv

import numpy as np
import pytest
from browser import axe, downloaded, emulate, errors, evaluate, opened, printed, requests, warnings
from planted_figures import planted_coords, planted_lrs, planted_steps, results

from mupcheck.report import report

HOSTILE = "=1+1</script><img src=x onerror=\"document.title='run'\"><b>{{1+1}}</b>'"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    runs = planted_lrs(-0.9, names=("sp",))
    gone = (runs["log2_lr"] == -3) & (runs["width"] > 32)
    runs.loc[gone, ["status", "val_loss", "train_loss"]] = ["diverged", np.nan, np.nan]
    both = (runs, planted_lrs(names=("gdn-mup",)))
    checks, coords = planted_coords(0.1)
    steps = planted_steps(both[1])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report(results(checks, *both, coords=coords, steps=steps), title="a page"), encoding="utf-8")
    return path


def rows_of(page, name, dataset):
    """What a chart has drawn."""
    return evaluate(page, f"mupcheck.views['{name}'].data('{dataset}')")


def shapes(page, figure, layer):
    """How many shapes a layer of a chart has, counted from 0 as in its specification."""
    return evaluate(page, f"document.querySelectorAll('#{figure} svg .layer_{layer}_marks > :not(g)').length")


def change(page, figure, which, value):
    """Choose an option of a figure's select, or type into its search, and wait until it is drawn."""
    return evaluate(
        page,
        f"""(async () => {{
            const made = document.querySelectorAll('#{figure} .tools select, #{figure} .tools input')[{which}];
            made.value = {value!r};
            made.dispatchEvent(new Event(made.tagName === 'SELECT' ? 'change' : 'input'));
            await mupcheck.views['{figure}'].runAsync();
            return mupcheck.charts['{figure}'].table_rows.length;
        }})()""",
    )


LOSSES, SLOPES, LAYERS = "lrs-adamw-head-dim-losses-sp", "check-adamw-head-dim-slopes-gdn-mup", "layers-gdn-mup"


def test_a_page_has_no_errors_asks_for_nothing_and_is_accessible(browser, file):
    with opened(browser, file) as page:
        assert evaluate(page, "document.querySelectorAll('figure svg').length") == evaluate(
            page, "document.querySelectorAll('figure').length"
        )
        assert errors(page) == warnings(page) == requests(page) == axe(page) == []
        # the policy in the page keeps even a script from asking
        kept = """new Promise((done) => {
            document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));
            fetch('http://127.0.0.1:9/').catch(() => setTimeout(() => done('nothing kept it'), 1000));
        })"""
        assert evaluate(page, kept) == "connect-src"
    with opened(browser, file, scheme="dark") as page:
        assert axe(page) == []
        paper = evaluate(page, "getComputedStyle(document.body).backgroundColor")
        emulate(page, "light")
        assert paper != evaluate(page, "getComputedStyle(document.body).backgroundColor")


def test_charts_draw_the_rows_they_have(browser, file):
    with opened(browser, file) as page:
        points = rows_of(page, LOSSES, "curves")
        assert len(points) == 3 * 8 and sum(row["diverged"] > 0 for row in points) == 2
        assert len(rows_of(page, LOSSES, "lost")) == 2
        seeds, lines, means, crosses, intervals, optima = (shapes(page, LOSSES, layer) for layer in range(6))
        assert (seeds, lines, means) == (3 * (3 * 8 - 2), 3, 3 * 8 - 2)
        assert (crosses, intervals, optima) == (2, 3, 3)
        assert len(rows_of(page, SLOPES, "slopes")) == min(
            60, evaluate(page, f"mupcheck.charts['{SLOPES}'].rows.slopes.length")
        )


def test_no_label_is_cut_off(browser, file):
    beyond = """[...document.querySelectorAll('figure svg')].flatMap((svg) => {
        const edge = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter((text) => {
            const box = text.getBoundingClientRect();
            return box.width && (box.left < edge.left - 1 || box.right > edge.right + 1);
        }).map((text) => text.textContent);
    })"""
    with opened(browser, file) as page:
        assert evaluate(page, beyond) == []
        # a control: a font whose widths the library did not measure by is seen
        evaluate(page, "document.body.insertAdjacentHTML('beforeend', '<style>svg text { font-size: 60px }</style>')")
        assert evaluate(page, beyond) != []


def test_a_switch_takes_off_each_widths_optimum(browser, file):
    with opened(browser, file) as page:
        axis = (
            f"[...document.querySelectorAll('#{LOSSES} .role-axis-label text')].map((text) => text.textContent).join()"
        )
        before = evaluate(page, axis)
        evaluate(page, "document.querySelector('.switch input').click()")
        evaluate(page, f"mupcheck.views['{LOSSES}'].runAsync().then(() => null)")
        after = evaluate(page, axis)
        assert before != after and evaluate(page, f"mupcheck.views['{LOSSES}'].signal('shifted')") is True
        evaluate(page, "document.querySelector('.switch input').click()")
        evaluate(page, f"mupcheck.views['{LOSSES}'].runAsync().then(() => null)")
        assert evaluate(page, axis) == before


def test_filters_choose_what_is_drawn(browser, file):
    with opened(browser, file) as page:
        every = evaluate(page, f"mupcheck.charts['{SLOPES}'].rows.slopes.length")
        of_kind = change(page, SLOPES, 1, "effective_update")
        assert 0 < of_kind < every
        assert {row["kind"] for row in rows_of(page, SLOPES, "slopes")} == {"effective_update"}
        change(page, SLOPES, 1, "")
        assert 0 < change(page, SLOPES, 4, "q_proj") < every
        assert {row["site"] for row in rows_of(page, SLOPES, "slopes")} == {"q_proj"}
        assert change(page, SLOPES, 4, "nothing of this name") == 0
        assert change(page, SLOPES, 4, "") == every
        layers = f"check-adamw-head-dim-{LAYERS}"
        change(page, layers, 0, "activation rms of q_pre")
        assert {(row["site"], row["kind"]) for row in rows_of(page, layers, "layers")} == {("q_pre", "activation")}


def test_runs_are_chosen_and_what_is_shown_of_them(browser, file):
    with opened(browser, file) as page:
        runs = "lrs-adamw-head-dim-runs"
        drawn = rows_of(page, runs, "curves")
        assert len({row["run"] for row in drawn}) == 4 and {"gdn-mup"} == {row["run"].split()[0] for row in drawn}
        assert all(row["loss"] > 0 for row in drawn)


def test_data_is_saved_as_it_is_shown(browser, file, tmp_path):
    with opened(browser, file) as page:
        saved = downloaded(page, f"#{LOSSES} .save-csv", tmp_path)
        assert saved.name == f"{LOSSES}.csv"
        with saved.open(newline="", encoding="utf-8") as text:
            kept = list(csv.DictReader(text))
        rows = evaluate(page, f"mupcheck.charts['{LOSSES}'].rows.curves")
        assert [row["loss"] for row in kept] == ["" if row["loss"] is None else str(row["loss"]) for row in rows]
        evaluate(page, f"document.querySelector('#{LOSSES} details').open = true")
        cells = evaluate(
            page,
            f"""new Promise((done) => {{
                const look = () => {{
                    const lines = [...document.querySelectorAll('#{LOSSES} details tr')];
                    if (lines.length) done(lines.map((line) => [...line.children].map((cell) => cell.textContent)));
                    else setTimeout(look, 10);
                }};
                look();
            }})""",
        )
        assert cells[0] == list(kept[0]) and cells[1:] == [list(row.values()) for row in kept]
        picture = downloaded(page, f"#{LOSSES} .save-svg", tmp_path)
        assert picture.name == f"{LOSSES}.svg" and picture.read_text(encoding="utf-8").startswith("<svg")


def test_print_has_all_sections(browser, file):
    with opened(browser, file) as page:
        n_sections = evaluate(page, "document.querySelectorAll('section').length")
        assert n_sections == 2 and len(printed(page)) > 20_000


def test_on_paper_charts_fit_a_page_and_the_ledger_is_open(browser, file):
    with opened(browser, file, scheme="dark") as page:
        is_open = "[...document.querySelectorAll('section > details')].map((details) => details.open)"
        assert not any(evaluate(page, is_open))
        evaluate(page, "window.seen = null; addEventListener('beforeprint', () => { window.seen = " + is_open + "; })")
        printed(page)
        assert all(evaluate(page, "window.seen")) and not any(evaluate(page, is_open))
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        heights = evaluate(
            page, "[...document.querySelectorAll('figure')].map((f) => f.getBoundingClientRect().height)"
        )
        assert max(heights) < 26 * 96 / 2.54  # cm of an A4 page between its margins
        assert evaluate(page, "getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        tools = evaluate(page, "[...document.querySelectorAll('.tools, nav, .switch')].map((e) => e.offsetHeight)")
        assert tools and not any(tools)


def test_hostile_text_is_shown_and_never_run(browser, tmp_path):
    runs = planted_lrs(names=("gdn-mup",)).assign(parametrization=HOSTILE, data=HOSTILE, sweep=HOSTILE)
    path = tmp_path / "report.html"
    path.write_text(
        report(results(runs, coords=planted_coords()[1][:0], steps=planted_steps(runs)), title=HOSTILE),
        encoding="utf-8",
    )
    with opened(browser, path) as page:
        assert evaluate(page, "document.title") == HOSTILE
        assert evaluate(page, "document.querySelectorAll('img, b').length") == 0
        for details in range(evaluate(page, "document.querySelectorAll('details').length")):
            evaluate(page, f"document.querySelectorAll('details')[{details}].open = true")
        assert HOSTILE in evaluate(page, "document.body.textContent")
        assert evaluate(page, "document.title") == HOSTILE
        assert errors(page) == requests(page) == []
        # nor by a spreadsheet, to which a cell that begins with = is a formula
        saved = downloaded(page, "figure[id$='-optima'] .save-csv", tmp_path)
        with saved.open(newline="", encoding="utf-8") as text:
            assert {row["parametrization"] for row in csv.DictReader(text)} == {"'" + HOSTILE}
