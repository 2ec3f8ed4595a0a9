"""Rows become tables: ratios to ours, shares, spread, and the reason where there is no time."""

from planted_bench import BENCH, OURS, PEER, WRONG, timing

from mupcheck.bench.tables import as_markdown, grids, milliseconds


def test_a_table_a_case_with_ratios_to_ours():
    op, step = grids(BENCH.rows, whole=False)
    assert op.title == "op, K=32 V=64, 32 x 1024 x 6 heads, bfloat16, in ms"
    assert step.title == "step, d=256, 8 layers, 8,192 tokens a run, bfloat16, in ms"
    head = dict(zip(op.columns, op.lines[1], strict=True))
    assert head["both"] == "2.12" and head["x both"] == "2.12" and head["x both in graph"] == "2.12"
    assert head["of floor"] == "10%" and head["GB"] == "0.66" and head["off by"] == "1.0e-03"
    assert dict(zip(op.columns, op.lines[0], strict=True))["of floor"] == "50%"
    assert {len(line) for line in op.lines} == {len(op.columns)}


def test_what_is_wrong_shows_why_and_no_time():
    op, _ = grids(BENCH.rows, whole=True)
    _, _, line = op.lines
    assert line[2].startswith("disagrees with float64") and not any(line[3:])
    assert BENCH.wrong == [WRONG]


def test_ratios_are_to_the_first_of_ours_that_was_timed():
    table, *_ = grids([WRONG, PEER, OURS], whole=False)
    assert dict(zip(table.columns, table.lines[1], strict=True))["x both"] == "2.12"
    (alone,) = grids([PEER], whole=False)
    assert dict(zip(alone.columns, alone.lines[0], strict=True))["x both"] == ""


def test_markdown_is_whole():
    text = as_markdown(BENCH)
    lines = text.splitlines()
    for said in ("a GPU, 2026-11-26 10:00 UTC, commit 0123456789ab+", "torch 2.11, fla-core 0.6.0", "copies 3 TB/s"):
        assert said in text
    assert "8192^3 bfloat16 products 700 TFLOP/s; a launch takes 5.0 us" in text
    assert "1 (0.9-1.1)" in text
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1
    assert sum(line.startswith("**") for line in lines) == 2


def test_times_have_three_figures():
    assert [milliseconds(timing(x), spread=False) for x in (0.01234, 1.5, 99.94, 1234.5)] == [
        *("0.0123", "1.5", "99.9", "1234"),
    ]
    assert milliseconds(None, spread=True) == ""
