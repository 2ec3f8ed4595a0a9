"""What stands around the panels fits, and says how the runs were measured."""

import pytest
from matplotlib.figure import Figure
from planted_figures import clashes, planted_lrs, texts

from mupcheck.plots import Caption, canvas
from mupcheck.plots.facts import describe_runs, describe_setting
from mupcheck.plots.frame import cut, cut_front, frame, text_inches, wrap


@pytest.mark.parametrize("width", [3.0, 4.4, 9.0])
def test_everything_fits_whatever_the_width(width):
    with canvas.drawing_style():
        figure = Figure(figsize=(width, 1.0))
        panel = canvas.add_panel(figure, 0.5, 0.2, width - 1, 0.7)
        panel.set_xticks([])
        panel.set_yticks([])
        caption = Caption("A title " * 12, "a-sweep · adamw · head-dim", "3 seeds · 60 steps · data stdlib · " * 4)
        handles = [canvas.handle(f"entry {i}", color="black", marker="o") for i in range(12)]
        frame(figure, caption, remarks=["some counts " * 9], hint="how to read it " * 12, handles=handles)
        assert clashes(figure) == []
        assert canvas.place(panel)[2:] == pytest.approx((width - 1, 0.7)), "panels keep their size"
        assert {f"entry {i}" for i in range(12)} <= set(texts(figure))


def test_text_is_broken_and_cut_to_its_room():
    text = "one two three four five six seven"
    lines = wrap(text, 1.0)
    assert " ".join(lines) == text
    assert len(lines) > 1
    assert max(map(text_inches, lines)) <= 1.0
    assert wrap("", 1.0) == []
    assert cut("short", 1.0) == "short"
    assert cut("w" * 99, 1.0).endswith("…")
    assert text_inches(cut("w" * 99, 1.0)) <= 1.0


def test_the_facts_are_those_of_the_runs():
    def said(runs):
        return describe_runs(runs).replace("\xa0", " ")

    runs = planted_lrs(seeds=1)
    assert describe_setting(runs) == "lrs · adamw · head-dim"
    assert said(runs).startswith("1 seed · 60 steps · data stdlib · base width 32 · lr 2⁻¹⁰ to 2⁻³ (8) · 90% intervals")
    assert "lr 0.001 ·" in said(runs.assign(lr=0.001))
    assert "lr 2⁻⁵ ·" in said(runs.assign(lr=2.0**-5))
    assert "data text:/" in said(runs.assign(data="text:/" + "x" * 99))
    assert len(said(runs.assign(data="text:/" + "x" * 99))) < 150
    # a model of a user's own has neither
    assert said(runs.assign(data="", base_width=0)).startswith("1 seed · 60 steps · lr 2⁻¹⁰ to 2⁻³ (8)")
    assert said(runs.assign(data=None, base_width=float("nan"))).startswith("1 seed · 60 steps · lr 2⁻¹⁰")


def test_names_of_parameters_lose_what_they_share():
    name = "model.layers.*.linear_attn.in_proj.weight rows k"
    assert cut_front(name, 9.0) == name
    room = text_inches("…linear_attn.in_proj rows k") + 0.01
    assert cut_front(name, room) == "…linear_attn.in_proj rows k"
    assert cut_front(name, room - 0.02) == "…in_proj rows k"
    # not even the last part fits
    short = cut_front(name, 0.6)
    assert short.startswith("…") and short.endswith(" rows k"[-3:]) and text_inches(short) <= 0.6
