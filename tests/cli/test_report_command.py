"""mupcheck report: one file, the numbers of `check --json`, and one line where it cannot be written."""

import json
import re
from html import unescape

import pytest
from commands import mupcheck

from mupcheck.cli import exits


def charts_of(page):
    return json.loads(re.search(r'id="charts">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_has_the_numbers_of_check(copied):
    before = {path for path in copied.rglob("*") if path.is_file()}
    answer = mupcheck("report", copied / "results")
    file = copied / "results" / "report.html"
    assert (answer.code, answer.err, answer.out) == (exits.OK, "", f"{file}\n")
    assert {path for path in copied.rglob("*") if path.is_file()} - before == {file}
    page = file.read_text(encoding="utf-8")
    charts = {chart["name"]: chart for chart in charts_of(page)}
    checked = mupcheck("check", copied / "results", "--json").json
    assert {group["kind"] for group in checked["groups"]} == {"coord", "lr"}
    for group in checked["groups"]:
        name = f"{group['sweep']}-{group['optimizer']}-{group['mode']}"
        if group["kind"] == "lr":
            drawn = charts[f"{name}-losses-{group['parametrization']}"]["rows"]["optima"]
            optima = [(row["width"], row["log2_lr"], row["ci_low"], row["ci_high"]) for row in drawn]
            told = group["transfer"]["optima"]
            assert optima == [(o["width"], o["log2_lr"], o["ci_low"], o["ci_high"]) for o in told]
            assert group["transfer"]["sentence"] in unescape(page)
        else:
            drawn = charts[f"{name}-slopes-{group['parametrization']}"]["rows"]["slopes"]
            told = group["pooled"]
            assert [row["verdict"] for row in drawn] == [row["verdict"] for row in told]
            assert [row["slope"] for row in drawn] == pytest.approx([row["slope"] for row in told], rel=1e-5)
            assert group["counted"] in unescape(page)
    # again: the same bytes, whatever was written before
    assert mupcheck("report", copied / "results").code == exits.OK
    assert file.read_text(encoding="utf-8") == page


def test_one_sweep_and_a_file_of_ones_own(copied, monkeypatch):
    monkeypatch.setenv("MUPCHECK_OUT", str(copied / "results"))  # of sweeps, not of a page
    answer = mupcheck("report", copied / "results" / "lr", "--out", copied / "new" / "page.html", "--json")
    assert (answer.code, answer.err, answer.json) == (exits.OK, "", str(copied / "new" / "page.html"))
    page = (copied / "new" / "page.html").read_text(encoding="utf-8")
    assert all(chart["name"].startswith("lr-") for chart in charts_of(page))
    assert not (copied / "results" / "lr" / "report.html").exists()


def test_what_cannot_be_read_or_written_is_one_line(copied):
    (copied / "blocked").write_text("in the way")
    for arguments, code, said in (
        ((copied / "none",), exits.USAGE, "does not exist"),
        ((copied / "results", "--out", copied / "blocked" / "x.html"), exits.STORAGE, "cannot write"),
        (("s3://bucket/results",), exits.USAGE, "add --out FILE"),
        ((copied / "results", "--out", "s3://bucket/x.html"), exits.USAGE, "--out"),
    ):
        answer = mupcheck("report", *arguments)
        assert (answer.code, answer.out, answer.err.count("\n")) == (code, "", 1)
        assert said in answer.err
