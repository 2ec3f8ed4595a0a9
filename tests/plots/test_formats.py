"""Files of figures: as large as asked for, the same bytes for the same results, text that can be selected."""

import re
import zlib

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from planted_figures import planted_coords, planted_lrs, results

from mupcheck.looks import COLUMN_INCHES
from mupcheck.plots import figures, plot_results
from mupcheck.plots.formats import PAPER_DPI, read_formats


@pytest.fixture(scope="module")
def planted():
    runs, coords = planted_coords(names=("sp", "gdn-mup"))
    return results(runs, planted_lrs(names=("sp", "gdn-mup")), coords=coords[coords["kind"] == "effective_update"])


def size_of_pdf(data):
    left, bottom, right, top = map(float, re.search(rb"/MediaBox \[ ?([\d. ]+)\]", data)[1].split())
    assert (left, bottom) == (0, 0)
    return right / 72, top / 72


def selectable(data):
    """The characters that fonts of a PDF say their glyphs are."""
    found = set()
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        try:
            text = zlib.decompress(stream)
        except zlib.error:
            continue
        for start, end, first in re.findall(rb"<([0-9a-f]{4})> <([0-9a-f]{4})> <([0-9a-f]{4})>", text):
            found |= {chr(int(first, 16) + i) for i in range(int(end, 16) - int(start, 16) + 1)}
        for listed in re.findall(rb"<[0-9a-f]{4}> <[0-9a-f]{4}>\s*\[([^\]]*)\]", text):
            found |= {chr(int(each, 16)) for each in re.findall(rb"<([0-9a-f]{4})>", listed)}
    return found


def test_a_paper_s_figures_are_as_wide_as_its_columns(planted, tmp_path):
    files = plot_results(planted, tmp_path, style="paper")
    assert {file.suffix for file in files} == {".pdf", ".png", ".txt"}
    widths = {}
    for file in files:
        columns = file.stem.rsplit("_", 1)[1]
        if file.suffix == ".pdf":
            widths[file] = size_of_pdf(file.read_bytes())[0]
        elif file.suffix == ".png":
            data = file.read_bytes()
            widths[file] = int.from_bytes(data[16:20], "big") / PAPER_DPI
            assert round(int.from_bytes(data[data.index(b"pHYs") + 4 :][:4], "big") * 0.0254) == PAPER_DPI
        if file in widths:
            assert widths[file] == pytest.approx(COLUMN_INCHES[columns], abs=0.005)
    assert len(widths) == 2 * 2 * 2


def test_a_pdf_of_a_page_is_as_large_as_its_figure(planted, tmp_path):
    (file,) = plot_results(planted, tmp_path, only="loss_vs_lr", formats="pdf")
    (figure,) = figures(planted, "loss_vs_lr").values()
    assert size_of_pdf(file.read_bytes()) == pytest.approx(tuple(figure.get_size_inches()), abs=0.005)


@pytest.mark.parametrize(("style", "only"), [("page", "loss_vs_lr"), ("paper", "*_single")])
def test_the_same_results_give_the_same_bytes_on_any_day(planted, tmp_path, monkeypatch, style, only):
    options = {"style": style, "formats": ("pdf", "svg", "png")}
    first = plot_results(planted, tmp_path / "a", only=only, **options)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")  # what both matplotlib and fontTools take for the time
    again = plot_results(planted, tmp_path / "b", only=only, **options)
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in again]
    assert not any(b"CreationDate" in file.read_bytes() for file in first)
    bytes_of = {file.name: file.read_bytes() for file in first}
    # files that did not depend on their data would repeat as well
    other = plot_results(results(planted_lrs(-1.0)), tmp_path / "c", only=only, **options)
    assert len(other) >= 3 and not any(bytes_of[file.name] == file.read_bytes() for file in other)
    dated = tmp_path / "dated.pdf"
    Figure().savefig(dated)
    assert b"CreationDate" in dated.read_bytes()


def test_text_of_a_pdf_is_truetype_and_can_be_selected(planted, tmp_path):
    for style, said in (("paper", "validation loss (nats) log₂ learning rate μP SP −8"), ("page", "sp gdn-mup 2⁻⁷ ✓")):
        files = plot_results(planted, tmp_path / style, only="loss_vs_lr", style=style, formats=["pdf"])
        for data in (file.read_bytes() for file in files if file.suffix == ".pdf"):
            assert b"/FontFile2" in data and b"/CIDFontType2" in data and b"/Type3" not in data
            assert set(said) <= selectable(data)
    outlined = tmp_path / "outlined.pdf"
    with mpl.rc_context({"pdf.fonttype": 3}):
        (figure,) = figures(planted, "loss_vs_lr").values()
        figure.savefig(outlined)
    assert b"/Type3" in outlined.read_bytes()


def test_formats_are_those_asked_for_each_once(planted, tmp_path):
    assert read_formats(None, "page") == ("png", "svg") and read_formats(None, "paper") == ("pdf", "png")
    assert read_formats(" svg, pdf,svg", "page") == read_formats(["svg", "pdf"], "paper") == ("svg", "pdf")
    files = plot_results(planted, tmp_path, only="loss_vs_lr", formats="svg,pdf")
    assert [file.name for file in files] == ["loss_vs_lr.svg", "loss_vs_lr.pdf"]


@pytest.mark.parametrize("given", ["jpg", "png,", "", "PDF", ["eps"], [], "png;svg"])
def test_an_unknown_format_is_told_those_that_are(planted, tmp_path, given):
    with pytest.raises(ValueError, match=r"is no format of figures; formats are png, svg, pdf, such as png,pdf$"):
        plot_results(planted, tmp_path / "out", formats=given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["Paper", "", None, 3])
def test_an_unknown_style_is_told_those_that_are(planted, tmp_path, given):
    for draw in (lambda: plot_results(planted, tmp_path / "out", style=given), lambda: figures(planted, style=given)):
        with pytest.raises(ValueError, match=r"is no style of figures; styles are page, paper$"):
            draw()
    assert not (tmp_path / "out").exists()
