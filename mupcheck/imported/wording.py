"""Advice for who measured elsewhere: no options of commands that did not measure it."""

import re

# what an option of lr-sweep or coord asks for, in words
WORDS = (
    (re.compile(r" \(--seeds \d+, or --top-up\)| \(--top-up tries\)"), ""),
    (re.compile(r"give at least 2 seeds: --seeds 8"), "measure at least 2 seeds, better 8"),
    (re.compile(r"--widths (\d[\d,]*)"), r"widths \1"),
    (re.compile(r"--seeds (\d+)"), r"\1 seeds"),
    (re.compile(r"--lrs (\S+?):([^:\s]+):\S+"), r"lrs from \1 to \2"),
    (re.compile(r"--refine, or wider --lrs"), "lrs beyond that end"),
    (re.compile(r"--refine, or finer --lrs there"), "finer lrs there"),
    (re.compile(r"wider --lrs"), "lrs over a wider range"),
    (re.compile(r"--steps (\d+)"), r"\1 steps"),
    (re.compile(r"--steps"), "more steps"),
    (re.compile(r"--refine \((?:goes down|follows) .*?\)"), "lrs further out (so that the loss rises on both sides)"),
    (re.compile(r"--refine \((.*?)\)"), r"finer lrs (\1)"),
    (re.compile(r"--refine"), "finer lrs"),
    (re.compile(r"run the same command again"), "measure what is missing"),
    (re.compile(r"mupcheck coord .*"), "record sizes at these widths and judge them too"),
    (re.compile(r"^(see which sizes change with width): "), r"\1: "),
    (re.compile(r"^give "), "measure "),
)


def in_words(text: str) -> str:
    """Return advice without options: "give --seeds 6" is "measure 6 seeds"."""
    for option, words in WORDS:
        text = option.sub(words, text)
    return text
