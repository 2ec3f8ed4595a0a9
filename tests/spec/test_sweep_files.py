"""The sweeps that are shipped."""

import pytest
from small_specs import SWEEPS

from mupcheck.spec.reading import load_sweep, make_sweep, read_sweep_file

# --- sweeps/ ----------------------------------------------------------------------------------------------------------


def test_the_sweeps_asked_for_are_there():
    names = {path.stem for path in SWEEPS}
    assert {"smoke", "demo_coord", "demo_lr", "demo_lr_sgd", "paper_adamw", "paper_sgd"} <= names


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_file_opens_with_the_question_it_answers(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and "?" in first
    for device in ("cpu", "cuda"):
        grid = load_sweep(path, device=device)
        assert grid.name == path.stem
        assert grid.question.endswith("?")
        assert grid.runs(vocab_size=grid.vocab_size or 256, data_hash="")


PAPER = {
    "mode": "head-dim",
    "n_layers": 8,
    "conv_size": 4,
    "mlp_ratio": 4,
    "tied": True,
    "base_width": 256,
    "embedding_std": 0.02,
    "projection_std": 0.02,
    "clip": 1.0,
    "schedule": "cosine",
    "warmup_steps": 2000,
    "steps": 20_000,
    "min_lr": 5e-5,
    "batch_size": 480,
    "seq_len": 1024,
    "seeds": (42,),
}


@pytest.mark.parametrize(
    ("stem", "own", "lr_ends"),
    [
        (
            "paper_adamw",
            {
                "optimizer": "adamw",
                "widths": (256, 512, 1024, 1536),
                "weight_decay": 0.1,
                "beta1": 0.9,
                "beta2": 0.95,
                "decay_mode": "coupled",
            },
            (1e-3, 2e-2),
        ),
        ("paper_sgd", {"optimizer": "sgd", "widths": (256, 512, 768, 1024), "momentum": 0.98}, (1e-1, 1.0)),
    ],
)
def test_the_paper_s_sweeps_have_the_paper_s_settings(stem, own, lr_ends):
    grid = load_sweep(SWEEPS[0].parent / f"{stem}.toml", device="cuda")
    for name, value in (PAPER | own).items():
        assert getattr(grid, name) == value, name
    assert (min(grid.lrs), max(grid.lrs)) == lr_ends
    assert 5 <= len(grid.lrs) <= 7
    for run in grid.runs(vocab_size=50257, data_hash=""):
        assert run.heads == (6, run.width // 8, run.width // 4)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_file_says_its_dtype_so_that_it_is_the_same_sweep_on_a_gpu(path):
    assert read_sweep_file(path)["dtype"] in ("float32", "bfloat16", "float64")
    assert load_sweep(path, device="cuda").dtype == load_sweep(path).dtype


def test_a_sweep_of_lrs_is_in_bfloat16_on_a_gpu_and_a_check_is_not():
    kinds_and_devices = [(kind, device) for kind in ("coord", "lr") for device in ("cpu", "cuda")]
    found = {(kind, device): make_sweep({"kind": kind}, device=device).dtype for kind, device in kinds_and_devices}
    assert found.pop(("lr", "cuda")) == "bfloat16"
    assert set(found.values()) == {"float32"}
