"""Files, options and defaults become the same grid; what is faulty is refused in one line."""

import json
from pathlib import Path

import pytest
from small_specs import KINDS_AND_PLACES, run_ids

from mupcheck.spec.reading import call, load_sweep, make_sweep

# --- files, options, defaults -----------------------------------------------------------------------------------------

DOCUMENT = """
# Does it?
question = "Does it?"
kind = "coord"
data = "synthetic"
widths = [32, 64]
base_width = 32
parametrizations = ["sp", "mup"]
lrs = "2^-8"
seeds = 2
record = [0, 1]
weight_decay = 0
tied = true
expect = { sp = "fail" }
"""
SAME_BY_OPTIONS = {
    "question": "Does it?",
    "name": "does-it",
    "kind": "coord",
    "data": "synthetic",
    "widths": (32, 64),
    "base_width": 32,
    "parametrizations": ["sp", "mup"],
    "lrs": [0.00390625],
    "seeds": [0, 1],
    "record": (0, 1),
    "weight_decay": 0.0,
    "tied": True,
    "expect": {"sp": "fail"},
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a sweep file."""

    def write(text: str, name: str = "does-it.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_and_options_give_the_same_spec(write):
    from_file, from_options = load_sweep(write(DOCUMENT)), make_sweep(SAME_BY_OPTIONS)
    assert from_file == from_options
    assert run_ids(from_file) == run_ids(from_options)


def test_a_sweep_survives_its_json(write):
    grid = load_sweep(write(DOCUMENT))
    again = make_sweep(json.loads(json.dumps(grid.model_dump(mode="json"))))
    assert again == grid
    assert run_ids(again) == run_ids(grid)


def test_options_win_over_the_file_and_the_file_over_defaults(write):
    path = write(DOCUMENT + "batch_size = 3\n")
    grid = load_sweep(path, {"batch_size": 5, "widths": [32, 96]})
    assert (grid.batch_size, grid.widths, grid.parametrizations) == (5, (32, 96), ("sp", "mup"))
    assert load_sweep(path).batch_size == 3
    assert load_sweep(write(DOCUMENT)).batch_size == make_sweep({"kind": "coord"}).batch_size == 1
    # defaults follow what is chosen, wherever it is chosen
    assert load_sweep(write('kind = "coord"'), {"optimizer": "sgd"}).lrs == (2.0**-6,)
    assert load_sweep(write('kind = "coord"\noptimizer = "sgd"')).lrs == (2.0**-6,)
    assert load_sweep(write('kind = "coord"')).lrs == (2.0**-12,)


def test_what_a_file_says_of_one_table_goes_with_the_table_and_with_seeds_for_all(write):
    path = write(
        'kind = "lr"\nparametrizations = ["sp", "mup"]\nseeds = 2\nseeds_of = { mup = 4 }\nexpect = { sp = "drifts" }'
    )
    assert load_sweep(path).seeds_of == {"mup": (0, 1, 2, 3)}
    for seeds in (3, 24):
        grid = load_sweep(path, {"seeds": seeds})
        assert (len(grid.seeds), grid.seeds_of) == (seeds, {})
    sp, mup = (load_sweep(path, {"parametrizations": [name]}) for name in ("sp", "mup"))
    assert (sp.seeds_of, sp.expect) == ({}, {"sp": "drifts"})
    assert (len(mup.seeds_of["mup"]), mup.expect) == (4, {})
    assert load_sweep(path, {"seeds": 2, "seeds_of": {"sp": 3}}).seeds_of == {"sp": (0, 1, 2)}


def test_a_sweep_is_named_as_its_file_unless_it_says_otherwise(write):
    assert load_sweep(write(DOCUMENT)).name == "does-it"
    assert load_sweep(write(DOCUMENT + 'name = "other"')).name == "other"
    assert load_sweep(write(DOCUMENT), {"name": "third"}).name == "third"


@pytest.mark.parametrize(
    "change",
    [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff\r\n" + text.rstrip()],
    ids=["byte order mark", "Windows", "both"],
)
def test_a_file_saved_on_windows_is_read(write, tmp_path, change):
    plain = load_sweep(write(DOCUMENT))
    (tmp_path / "does-it.toml").write_bytes(change(DOCUMENT).encode())
    assert load_sweep(tmp_path / "does-it.toml") == plain


def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path):
    path = tmp_path / "odd.toml"
    for content, why in (
        (DOCUMENT.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (b"\x80", "no UTF-8 text"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
        (b"a = " + b"1" * 5000, "not valid TOML"),
        (b"#" * (2**20 + 1), "larger than 1,048,576 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=why) as caught:
            load_sweep(path)
        assert "odd.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_rules_file_is_found_beside_the_sweep_file(write, tmp_path, monkeypatch):
    write('name = "mine"\nbase = "mup"\n', "mine.toml")
    path = write(DOCUMENT.replace('"mup"', '"mine.toml"'))
    monkeypatch.chdir(tmp_path.parent)
    assert [table.name for table in load_sweep(path).tables] == ["sp", "mine"]
    # one given as an option is where the user stands
    with pytest.raises(ValueError, match=r"cannot read the rules file mine\.toml"):
        load_sweep(path, {"parametrizations": ["mine.toml"]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind = ", "is not valid TOML"),
        ('data = "synthetic"', "kind = None; a sweep is of kind 'coord' or 'lr'"),
        (DOCUMENT + "frob = 1", "unknown key 'frob'; known: accumulation, backend, "),
        (DOCUMENT + "[model]\nwidth = 3", "unknown key 'model'"),
        (DOCUMENT.replace("seeds = 2", 'seeds = "2"'), "seeds = '2'"),
        (DOCUMENT.replace("[0, 1]", '[0, "1"]'), "record: '1'"),
        (DOCUMENT.replace('"2^-8"', "nan"), "lrs: nan"),
        (DOCUMENT.replace('"2^-8"', "2020-01-01"), "lrs = "),
        (DOCUMENT.replace('"mup"', '"mupp"'), "unknown parametrization 'mupp'"),
    ],
)
def test_a_faulty_file_is_refused_in_one_line_that_names_it(write, text, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_sweep(write(text))
    assert said in str(caught.value)
    assert "does-it.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("n_layers = 0 is not allowed", "--layers 0 is not allowed"),
        ("n_heads=5 does not divide 3/4 of base_width=64", "f.toml: n_heads=5 does not divide 3/4 of --base-width 64"),
        ("widths is empty; give at least one", "--widths is empty; give at least one"),
        ("seeds: -1 is not allowed", "MUPCHECK_SEEDS: -1 is not allowed"),
        ("seeds = 0 is no number", "MUPCHECK_SEEDS=0 is no number"),
        ("give head_k_dim, or more widths", "give --head-k-dim, or more widths"),
        ("unknown key 'frob'", "f.toml: unknown key 'frob'"),
        # of a rules file, which has keys of its own
        ("parametrizations: a.toml: n_layers = 3", "f.toml: parametrizations: a.toml: n_layers = 3"),
        ("the file base_width.toml is empty", "f.toml: the file base_width.toml is empty"),
    ],
)
def test_an_error_calls_a_key_what_its_user_called_it(message, said):
    keys = ("n_layers", "n_heads", "widths", "seeds", "parametrizations")
    names = {"n_layers": "--layers", "base_width": "--base-width", "widths": "--widths", "head_k_dim": "--head-k-dim"}
    assert call(message, names | {"seeds": "MUPCHECK_SEEDS"}, keys=keys, where="f.toml") == said


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, why in ((tmp_path / "missing.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=f"cannot read the sweep file {path}: {why}"):
            load_sweep(path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.toml is not valid TOML"):
        load_sweep(binary)


@pytest.mark.parametrize(("kind", "device", "optimizer", "tied"), KINDS_AND_PLACES)
def test_defaults_make_a_sweep_by_themselves(kind, device, optimizer, tied):
    grid = make_sweep({"kind": kind, "optimizer": optimizer, "tied": tied}, device=device)
    runs = grid.runs(vocab_size=256, data_hash="")
    assert len(runs) == len(grid.widths) * len(grid.parametrizations) * len(grid.lrs) * len(grid.seeds)
    assert grid.data == "stdlib" and "gdn-mup" in grid.parametrizations and len(grid.widths) >= 3
    assert len(grid.seeds) >= 3
    if kind == "coord":
        # theory.md section 4: what makes slopes clean
        assert grid.batch_size * grid.seq_len <= min(grid.widths) / 2
        assert (grid.warmup_steps, grid.clip, grid.weight_decay, grid.dtype) == (0, 0, 0, "float32")
        assert tied or grid.readout_std > 0
        assert max(grid.widths) / min(grid.widths) >= 8
        assert 0 in grid.record and len(grid.record) >= 3 and grid.probes == "full"
    else:
        assert len(grid.lrs) >= 5 and grid.eval_tokens > 0 and grid.probes == "none"
        assert max(grid.widths) / min(grid.widths) >= 4


@pytest.mark.parametrize("steps", [1, 5, 9, 10, 1000])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_any_number_of_steps_has_a_default_warm_up(steps, device):
    assert 0 <= make_sweep({"kind": "lr", "steps": steps}, device=device).warmup_steps < steps
