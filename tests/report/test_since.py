"""The part of the page that says what moved since other results: there where asked for, as diff says it, as text."""

import pytest
from browser import axe, errors, evaluate, opened, requests
from planted_figures import planted_coords, planted_lrs, results

from mupcheck.gate.diff_words import row_of
from mupcheck.gate.difference import diff
from mupcheck.report import report

HOSTILE = "</script><img src=x onerror=\"document.title='run'\"><b>{{1+1}}</b>'"
TEXTS = "(found) => [...document.querySelectorAll(found)].map((each) => each.textContent)"


def sides(slope=0.5, centre=0.0):
    before, coords = planted_coords()
    after, steeper = planted_coords(slope)
    moved = planted_lrs(centre)
    return results(before, planted_lrs(), coords=coords), results(after, moved, coords=steeper)


def written(tmp_path, after, before, **options):
    path = tmp_path / "page.html"
    path.write_text(report(after, title="a page", against=before, **options), encoding="utf-8")
    return path


def texts(page, selector):
    return evaluate(page, f"({TEXTS})({selector!r})")


def test_a_page_says_what_diff_says_below_the_answers(browser, tmp_path):
    before, after = sides(centre=-0.9)
    difference = diff(before, after)
    with opened(browser, written(tmp_path, after, before, name="results/before")) as page:
        assert texts(page, ".since h3:first-child") == ["What moved since A"] * 2
        assert {"A: results/before"} < set(texts(page, ".since .quiet"))
        said = texts(page, ".since .answer .sentence")
        assert sorted(said) == sorted(f"✗ moved {each.headline}" for each in difference.pairs)
        shown = [line for line in texts(page, ".since tbody tr") if line]
        wanted = ["".join(row_of(move)) for each in difference.pairs for move in each.worth[:40]]
        assert sorted(shown) == sorted(wanted) and len(shown) > 5
        order = """[...document.querySelectorAll('section')].map((section) =>
            [...section.children].map((child) => child.className).filter((name) => name))"""
        assert all(names[:3] == ["answers", "quiet", "since"] for names in evaluate(page, order))
        assert errors(page) == requests(page) == axe(page) == []
    with opened(browser, tmp_path / "page.html", scheme="dark") as page:
        assert axe(page) == []


def test_what_did_not_move_is_said_without_a_table(browser, tmp_path):
    before, _ = sides()
    with opened(browser, written(tmp_path, before, before)) as page:
        assert all(text.startswith("✓ same ") for text in texts(page, ".since .answer"))
        assert len(texts(page, ".since .answer")) == 2 and texts(page, ".since table") == []


def test_a_page_without_other_results_has_none_of_it(browser, tmp_path):
    _, after = sides()
    path = tmp_path / "page.html"
    path.write_text(report(after, title="a page"), encoding="utf-8")
    with opened(browser, path) as page:
        assert texts(page, ".since") == [] and "What moved" not in evaluate(page, "document.body.textContent")


def test_a_sweep_that_is_not_in_a_says_so(browser, tmp_path):
    before, after = sides()
    only = results(planted_lrs(), coords=before.coords[:0])
    with opened(browser, written(tmp_path, after, only)) as page:
        assert "no group of this sweep is in A" in texts(page, ".since .quiet")
        assert len(texts(page, ".since .answer")) == 1


@pytest.mark.parametrize("renamed", [True, False])
def test_hostile_names_are_text(browser, tmp_path, renamed):
    runs = planted_lrs().assign(parametrization=HOSTILE, data=HOSTILE, sweep=HOSTILE)
    other = planted_lrs(-0.9) if renamed else planted_lrs(-0.9).assign(parametrization=HOSTILE, data=HOSTILE)
    coords = planted_coords()[1][:0]
    before, after = results(other, coords=coords), results(runs, coords=coords)
    for a, b in ((before, after), (after, before)):
        with opened(browser, written(tmp_path, b, a, name=HOSTILE)) as page:
            assert f"A: {HOSTILE}" in texts(page, ".since .quiet")
            assert any(HOSTILE in text for text in texts(page, ".since .answer"))
            assert evaluate(page, "document.querySelectorAll('img, b').length") == 0
            assert evaluate(page, "document.title") == "a page"
            assert errors(page) == requests(page) == []
