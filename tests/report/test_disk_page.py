"""The page of a folder says what `mupcheck check` says of it, of a compacted one as well."""

from tiny_sweeps import tiny, tiny_coord, trained

from mupcheck.gate.check import check
from mupcheck.report import write_report
from mupcheck.report.content import sections_of
from mupcheck.results.compact import compact
from mupcheck.results.reading import load_results


def test_a_page_and_the_gate_agree_before_and_after_compacting(tmp_path):
    trained(tiny_coord(name="check"), tmp_path)
    trained(tiny(name="lrs"), tmp_path)
    pages = []
    for _ in range(2):
        report = check(tmp_path)
        sections = sections_of(report, load_results(tmp_path))
        said = [(each.sweep, each.verdict) for each in report.groups]
        told = [(section.title.split(" · ")[0], a.verdict) for section in sections for a in section.answers]
        assert sorted(told) == sorted(said) and len(told) == 4
        text = write_report(tmp_path, tmp_path / "page.html").read_text(encoding="utf-8")
        assert all(f"{checked.answer.title}" in text or checked.kind == "lr" for checked in report.groups)
        pages.append(text)
        for name in ("check", "lrs"):
            compact(tmp_path / name)
    assert pages[0] == pages[1]
