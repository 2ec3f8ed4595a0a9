"""Whatever a file holds: an answer, or one line that names the file and its row or column."""

import json

import pytest

from mupcheck.imported.read import read_tables

LRS = ("0.0001", "0.001", "0.01")
HEAD = "width,lr,loss,seed"
ROWS = [f"{w},{lr},{3 + i}.5,{s}" for w in (64, 128, 256) for i, lr in enumerate(LRS) for s in (0, 1)]
GOOD = "\n".join([HEAD, *ROWS]) + "\n"


def with_row(row, place=3):
    """The good table with another row in a place, counted as a spreadsheet does."""
    lines = GOOD.splitlines()
    lines[place - 1] = row
    return "\n".join(lines)


REFUSED = {
    "empty": (b"", "table is empty"),
    "blank": (b"\n \n", "is empty"),
    "an endless name": (b"#" + b"x" * 200_000 + b"\n1\n", "row 1 holds no column names: field larger than"),
    "no rows": (b"width,lr,loss\n", "has column names and no rows"),
    "no names": ("\n".join(ROWS), "has no line of column names: its first is '64,0.0001,3.5,0'"),
    "text": (with_row("64,0.0001,oops,1"), "row 3, column 'loss': 'oops' is not a number"),
    "list": (with_row('64,"[1, 2]",3,1'), "row 3, column 'lr': '[1, 2]' is not a number; it is a list"),
    "unit in a cell": (with_row("64k,0.0001,3,1"), "row 3, column 'width': '64k' is not a number; write it in full"),
    "unit in a name": (
        GOOD.replace("lr", "lr [1e-3]", 1),
        "'lr [1e-3]' may be lr times 1e-3; write the values in full",
    ),
    "log2 lr called lr": (
        with_row("64,-9,3,1"),
        "row 3, column 'lr': lr -9 is not above 0; if these are log2 of it, say",
    ),
    "lr of 0": (with_row("64,0,3,1"), "row 3, column 'lr': lr 0 is not above 0"),
    "no lr": (with_row("64,,3,1"), "row 3, column 'lr': nothing stands where the lr should"),
    "no seed": (with_row("64,0.0001,3,"), "row 3, column 'seed': nothing stands where the seed should"),
    "log2 lr of a million": (GOOD.replace("lr", "log2_lr", 1).replace("0.001", "1e6"), "log2_lr 1e+06 is no logarithm"),
    "overflow": (with_row("64,9^9999,3,1"), "'9^9999' is not a number"),
    "half a width": (with_row("64.5,0.0001,3,1"), "row 3, column 'width': width 64.5 is not a whole number"),
    "NaN width": (with_row("nan,0.0001,3,1"), "row 3, column 'width': width nan is not a whole number"),
    "duplicate": (
        with_row(ROWS[0]),
        "rows 2 and 3 are both width 64, lr 0.0001, seed 0 and nothing else tells them apart",
    ),
    "ragged": (with_row("64,0.1,1,2,3,4"), "row 3 has 6 columns where its names are 4"),
    "short": (with_row("64,0.1"), "row 3 has 2 columns where its names are 4"),
    "latin-1": (
        with_row("64,0.1,3,\xfc").encode("latin-1"),
        "row 3 is not UTF-8 text (byte 0xfc); save the file as UTF-8",
    ),
    "zero bytes": (b"width,lr,loss\n\0,1,2\n", "is not text: it holds zero bytes"),
    "name twice": (GOOD.replace("seed", "lr", 1), "has the column 'lr' twice; rename one"),
    "two losses": (
        GOOD.replace("loss,seed", "eval_loss,test_loss", 1),
        "'eval_loss' and 'test_loss' may both be val_loss",
    ),
    "no loss": (
        GOOD.replace("loss", "accuracy", 1),
        "has no column for loss; it has width, lr, accuracy, seed; say which",
    ),
    "strange status": (
        GOOD.replace("seed", "State", 1),
        "row 2, column 'State': '0' is no status; known: ok, finished",
    ),
    "bad JSON": ('{"width": 64}\n{"width": oops}\n', "row 2 is not JSON"),
    "JSON of numbers": ("[1, 2]", "is JSON, and no list of objects"),
    "cut Parquet": (b"PAR1abc", "is damaged or not Parquet"),
    "two losses of a step": (
        "width,lr,loss,step\n64,0.1,3,1\n64,0.1,4,1\n",
        "rows 2 and 3 have two losses of one step",
    ),
    "decimal commas": (with_row('64,"0,001",3,1'), "'0,001' is not a number; write it with a point"),
    "sizes with text": ("width,name,value\n64,q,1\n64,k,big\n", "row 3, column 'value': 'big' is not a number"),
    "sizes twice": ("width,name,value\n64,q,1\n64,q,2\n", "rows 2 and 3 are both q, width 64, step 0"),
    "no kind of size": ("width,name,value,kind\n64,q,1,magic\n", "row 2, column 'kind': 'magic' is no kind of size"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_bad_table_is_refused_in_one_line_that_names_the_place(tmp_path, given):
    data, said = REFUSED[given]
    path = tmp_path / "table"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_tables([path], name="s")
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


TAKEN = {
    "plain": GOOD,
    "order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "UTF-16": GOOD.encode("utf-16"),
    "old Mac": GOOD.replace("\n", "\r"),
    "Windows": GOOD.replace("\n", "\r\n"),
    "no last line end": GOOD.rstrip("\n"),
    "blank lines": "\n" + GOOD + "\n\n",
    "tabs": GOOD.replace(",", "\t"),
    "semicolons, decimal commas": GOOD.replace(",", ";").replace(".", ","),
    "blanks": GOOD.replace(",", "   "),
    "comment sign": "# " + GOOD.replace(",", " "),
    "Markdown": "| width | lr | loss | seed |\n|---|:--|---|--:|\n"
    + "\n".join("| " + row.replace(",", " | ") + " |" for row in ROWS),
    "powers": GOOD.replace("0.0001", "2^-13").replace("0.001", "2**-10").replace("0.01", "1/64"),
    "quotes": "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in GOOD.splitlines()),
    "units": GOOD.replace("width", "Width (neurons)", 1).replace("loss", "loss [nats]", 1),
    "more columns": "\n".join(f'{line},"a, b",' for line in GOOD.splitlines()),
    "JSON lines": "\n".join(
        json.dumps(dict(zip(HEAD.split(","), map(float, row.split(",")), strict=True))) for row in ROWS
    ),
    "JSON list": json.dumps([dict(zip(HEAD.split(","), row.split(","), strict=True)) for row in ROWS]),
}


@pytest.mark.parametrize("given", TAKEN)
def test_every_dialect_gives_the_same_runs(tmp_path, given):
    data = TAKEN[given]
    path = tmp_path / "table"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    runs = read_tables([path], name="s").results.runs.sort_values(["width", "log2_lr", "seed"])
    assert runs["width"].tolist() == [w for w in (64, 128, 256) for _ in range(6)]
    assert runs["train_loss"].tolist() == [3.5, 3.5, 4.5, 4.5, 5.5, 5.5] * 3
    assert runs["seed"].tolist() == [0, 1] * 9
    if given != "powers":
        assert runs["lr"].tolist() == [0.0001, 0.0001, 0.001, 0.001, 0.01, 0.01] * 3


def test_no_loss_is_not_a_loss_that_is_nan(tmp_path):
    (tmp_path / "t.csv").write_text(with_row("64,0.0001,,1", 3).replace("128,0.01,5.5,0", "128,0.01,NaN,0"))
    imported = read_tables([tmp_path / "t.csv"], name="s")
    assert imported.results.runs["status"].value_counts().to_dict() == {"ok": 16, "failed": 1, "diverged": 1}
    assert any("1 run without a loss left out" in line and "row 3" in line for line in imported.said)


def test_text_in_a_column_that_is_not_used_harms_nobody(tmp_path):
    (tmp_path / "t.csv").write_text(
        GOOD.replace("seed", "seed,notes", 1)
        .replace("\n64,", "\n64,", 1)
        .replace(",0\n", ",0,?!\n")
        .replace(",1\n", ",1,[1]\n")
    )
    assert len(read_tables([tmp_path / "t.csv"], name="s").results.runs) == len(ROWS)
