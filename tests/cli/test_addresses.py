"""Commands that take an address where they take a folder; the store is one in memory."""

from pathlib import Path

import pytest
from commands import mupcheck
from faulty_store import register
from small_sweeps import HERE, LR

from mupcheck.cli import exits

OUT = "faulty://bucket/results"
MODEL = """
import torch
from torch import nn

def build(width):
    return nn.Sequential(nn.Embedding(16, width), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 16))
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MUPCHECK_CACHE", str(tmp_path / "one"))
    monkeypatch.setattr("mupcheck.results.stores.beside.EVERY", 0.05)
    return register()


def files(store, sweep):
    return {key.removeprefix(f"/bucket/results/{sweep}/") for key in store.store if f"/results/{sweep}/" in key}


def test_losses_of_others_are_kept_in_a_store(store, monkeypatch, tmp_path):
    rows = [f"{width},{lr},{3 + (lr * width - 1) ** 2}" for width in (32, 64, 128) for lr in (0.01, 0.02, 0.04)]
    Path("published.csv").write_text("\n".join(["width,lr,loss", *rows]))
    kept = mupcheck("judge", "published.csv", "--out", OUT)
    assert f"kept in {OUT}/published: mupcheck plot {OUT}/published" in kept.err
    monkeypatch.setenv("MUPCHECK_CACHE", str(tmp_path / "other"))
    assert kept.out == mupcheck("judge", "published.csv", "--out", "folder").out
    one, other = (mupcheck("check", path, "--json") for path in (OUT, "folder"))
    assert (one.code, one.out) == (other.code, other.out)
    assert one.out


@pytest.mark.parametrize("verb", ["audit", "lr-sweep"])
def test_a_model_of_one_s_own_is_kept_in_a_store(store, monkeypatch, tmp_path, verb):
    Path("my.py").write_text(MODEL)
    if verb == "audit":
        command = ("audit", "my.py", "--widths", "16,32,64", "--seeds", "1", "--record", "0,1", "--jobs", "1")
    else:
        quick = ("--lrs", "2^-6:2^-4:2", "--seeds", "1", "--steps", "2", "--schedule", "constant", "--jobs", "1")
        command = ("lr-sweep", "--model", "my.py", "--widths", "16,32", *quick)
    mupcheck(*command, "--name", "my", "--out", OUT, "--dry-run")
    assert files(store, "my") == set(), "a dry run writes nothing"
    one = mupcheck(*command, "--name", "my", "--out", OUT)
    other = mupcheck(*command, "--name", "my")
    assert (one.code, one.out) == (other.code, other.out), one.err
    assert one.out
    sent = files(store, "my")
    assert len({name for name in sent if name.startswith("runs/")}) == (3 if verb == "audit" else 6)
    monkeypatch.setenv("MUPCHECK_CACHE", str(tmp_path / "other"))
    checked = [mupcheck("check", path, "--json") for path in (f"{OUT}/my", "results/my")]
    assert (checked[0].code, checked[0].out) == (checked[1].code, checked[1].out)
    again = mupcheck(*command, "--name", "my", "--out", OUT)
    assert again.out == one.out
    assert files(store, "my") == sent


def test_what_cannot_be_sent_exits_with_4(store, monkeypatch):
    monkeypatch.setattr("mupcheck.results.stores.beside.PATIENCE", 0.2)
    Path("lr.toml").write_text(LR)
    store.fails_after = 6
    answer = mupcheck("run", "lr.toml", "--out", OUT, *HERE)
    assert answer.code == exits.STORAGE
    assert "same command again sends them" in answer.err
    assert answer.out, "the answer is there"
    store.fails_after = None
    assert mupcheck("run", "lr.toml", "--out", OUT, *HERE).code == exits.CANNOT_TELL
    assert len({name for name in files(store, "lr") if name.startswith("runs/")}) == 6


def test_variables_name_addresses_too(store):
    Path("lr.toml").write_text(LR)
    assert mupcheck("run", "lr.toml", *HERE, MUPCHECK_OUT=OUT).code == exits.CANNOT_TELL
    assert "sweep.json" in files(store, "lr")
    assert not Path("faulty:").exists()
    assert not Path("results").exists()
