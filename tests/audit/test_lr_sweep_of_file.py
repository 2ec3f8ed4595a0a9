"""mupcheck lr-sweep --model as a user meets it: the answer of lr-sweep for a model of one's own."""

import re
from pathlib import Path

import pytest
import torch
from commands import mupcheck

import mupcheck as public
from mupcheck.cli import exits

HERE = Path(__file__).parents[2] / "sweeps" / "own_model.py"
# a quadratic whose best lr is the same at every width, in one product: a run takes milliseconds
QUICK = ("--widths", "16,32,64", "--lrs", "2^-6:2^0:2", "--seeds", "3", "--steps", "6", "--schedule", "constant")
MODEL = """
import torch
from torch import nn

def build(width):
    return nn.Sequential(nn.Embedding(16, width), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 16))
"""
OPTIMIZER = """
def optimizer(model, lr):
    return torch.optim.SGD(model.parameters(), lr=lr)
"""
BATCH = """
def batch(seed):
    return torch.randint(16, (2, 9), generator=torch.Generator().manual_seed(seed))
"""
LOSS = """
def loss(model, batch):
    out = model(batch[:, :-1])
    return """


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def swept(text, *arguments):
    Path("my.py").write_text(text)
    return mupcheck("lr-sweep", "--model", "my.py", *QUICK, *arguments)


def runs_of(name="my_lr"):
    return public.load_results(f"results/{name}").runs


def test_a_model_of_ones_own_gets_the_answer_of_a_sweep():
    answer = swept(MODEL + OPTIMIZER, "--jobs", "1", "--json")
    assert answer.code in (exits.OK, exits.CANNOT_TELL), answer.err
    (document,) = answer.json
    assert (document["sweep"], document["optimizer"]) == ("my_lr", "sgd")
    assert [row["width"] for row in document["optima"]] == [16, 32, 64]
    runs = runs_of()
    assert len(runs) == 3 * 7 * 3 and set(runs["status"]) == {"ok"} and set(runs["schedule"]) == {"constant"}
    # a smaller lr than the best one learns less
    by_lr = runs.groupby("lr")["train_loss"].mean()
    assert by_lr.iloc[0] > by_lr.min()
    # stored as any sweep of lrs is
    assert mupcheck("plot", "results/my_lr").code == exits.OK
    assert mupcheck("check", "results/my_lr").code in (exits.OK, exits.CANNOT_TELL)
    verdict = document["verdict"]
    other = "drifts" if verdict == "transfers" else "transfers"
    if verdict != "cannot tell":
        assert swept(MODEL + OPTIMIZER, "--expect", other).code == exits.FAILED


def test_runs_are_the_same_whatever_else_runs_and_are_not_done_again():
    first = swept(MODEL + OPTIMIZER, "--jobs", "1")
    losses = runs_of().set_index("run_id")["train_loss"]
    again = swept(MODEL + OPTIMIZER)
    assert "all 63 runs are there already" in again.err and again.out == first.out
    files = sorted(Path("results/my_lr/runs").iterdir())
    for file in files[::3]:
        file.unlink()
    beside = swept(MODEL + OPTIMIZER, "--jobs", "2")
    assert "21 of 63 runs to train" in beside.err
    assert (runs_of().set_index("run_id")["train_loss"][losses.index] == losses).all()
    # another file is another sweep, and so are other settings
    assert "63 of 63" in swept(MODEL + OPTIMIZER + "\n# changed", "--jobs", "1").err
    assert "63 of 63" in swept(MODEL + OPTIMIZER, "--steps", "7", "--jobs", "1").err
    assert "63 of 63" in swept(MODEL + OPTIMIZER, "--fresh", "--jobs", "1").err


def test_every_step_and_seed_has_a_batch_of_its_own_and_lrs_and_widths_the_same():
    seen = MODEL + OPTIMIZER + BATCH.replace("return", "print('batch', seed)\n    return")
    few = ("--seeds", "2", "--lrs", "0.1,0.2", "--steps", "3", "--jobs", "1")
    answer = swept(seen, *few)
    asked = [int(number) for number in re.findall(r"^batch (\d+)$", answer.err, re.MULTILINE)]
    assert answer.out and "batch" not in answer.out.split("\n")[0]  # what a file prints is not the answer's
    assert set(asked) == {0, 1, 2, 1_000_000, 1_000_001, 1_000_002}
    assert all(asked.count(number) == asked.count(1_000_002) for number in (1_000_000, 1_000_001))
    stream = (
        MODEL + OPTIMIZER + "\ndef batches(seed):\n    while True:\n        yield torch.arange(9)[None] % (3 + seed)\n"
    )
    assert swept(stream, *few).code in (exits.OK, exits.CANNOT_TELL)


def test_a_run_that_diverges_is_a_result():
    text = MODEL + OPTIMIZER + BATCH + LOSS + "(out ** 4).mean() * 1e3"
    answer = swept(text, "--lrs", "1e-6,1e-5,1e4", "--jobs", "1")
    assert answer.code in (exits.OK, exits.CANNOT_TELL), answer.err
    runs = runs_of()
    lost = runs[runs["status"] == "diverged"]
    assert set(lost["lr"]) == {1e4} and len(lost) == 9
    assert lost["reason"].str.contains("the loss is").all() and (lost["diverged_step"] > 0).all()


def test_a_scheduler_of_the_file_is_left_alone_and_else_lrs_fall():
    own = MODEL + (
        "\ndef optimizer(model, lr, steps):\n    made = torch.optim.SGD(model.parameters(), lr=lr)\n"
        "    return made, torch.optim.lr_scheduler.LinearLR(made, 1, 0.5, total_iters=steps)\n"
    )
    Path("my.py").write_text(own)
    few = ("lr-sweep", "--model", "my.py", "--widths", "16,32", "--lrs", "0.1,0.2", "--seeds", "1", "--steps", "10")
    # needing steps is refused, as an audit has none to give
    refused = mupcheck(*few)
    assert refused.code == exits.USAGE and "optimizer of my.py is to take (model)" in refused.err
    Path("my.py").write_text(own.replace("steps):", "steps=10):"))
    assert mupcheck(*few).code in (exits.OK, exits.CANNOT_TELL)
    assert set(runs_of()["schedule"]) == {"own"}
    assert "has a scheduler of its own" in mupcheck(*few, "--schedule", "linear").err
    Path("my.py").write_text(MODEL)
    mupcheck(*few)
    results = public.load_results("results/my_lr")
    assert set(results.runs["schedule"]) == {"linear"}
    scales = results.steps.groupby("run_id")["lr_scale"].apply(list).iloc[0]
    assert scales[0] == 1 and scales[-1] == pytest.approx(1 / 9)


def test_an_lr_added_around_the_best_is_swept_too():
    swept(MODEL + OPTIMIZER, "--refine", "--precision", "0.5", "--jobs", "1")
    runs = runs_of()
    assert len(runs) > 63 and set(runs["lr"]) > {2.0**i for i in range(-6, 1)}


def test_a_dry_run_writes_nothing():
    answer = swept(MODEL + OPTIMIZER, "--dry-run", "--json")
    assert answer.code == exits.OK and not Path("results").exists()
    assert (answer.json["runs"], answer.json["missing"]) == (63, 63)
    assert 0 < answer.json["seconds"] < 60
    assert re.search(
        r"63 of 63 runs to train into results/my_lr, about .* nothing was written", swept(MODEL, "--dry-run").out
    )


DEAF = "\ndef optimizer(model, lr):\n    return torch.optim.SGD(model.parameters(), lr=0.1)"
WRONG = {
    "no build": ("x = 1", "my.py has no function build(width)"),
    "no parameter": ("def build():\n    pass", "build of my.py is to take (width): too many positional arguments"),
    "not Python": ("def build(width:\n", "importing my.py raised SyntaxError"),
    "fails on import": ("import no_such_module_here", "importing my.py raised ModuleNotFoundError"),
    "no module": ("def build(width):\n    return width", "build(16) of my.py returned int, not a torch.nn.Module"),
    "raises": ("def build(width):\n    raise RuntimeError('no')", "build(16) of my.py raised RuntimeError: no"),
    "ignores width": (MODEL.replace("    return", "    width = 8\n    return"), "have 344 and 344 values"),
    "takes no lr": (MODEL + "\ndef optimizer(model):\n    return torch.optim.SGD(model.parameters())", "takes no lr"),
    "lr reaches nothing": (MODEL + DEAF, "makes the same groups for lr 0.015625 and 1; let lr reach them"),
    "no optimizer": (MODEL + "\ndef optimizer(model, lr):\n    return 3", "returned int, not a torch.optim.Optimizer"),
    "no scalar": (MODEL + BATCH + LOSS + "out", "seed 0, step 0 is a tensor of shape (2, 8, 16), not a scalar"),
    "no gradient": (MODEL + BATCH + LOSS + "out.detach().mean()", "step 0 has no gradient"),
    "NaN at once": (MODEL + BATCH + LOSS + "out.mean() / 0 * 0", "seed 0, step 0 is nan"),
    "loss raises": (MODEL + BATCH + LOSS + "out.nothing()", "loss(model, batch) of my.py raised AttributeError"),
    "few batches": (
        MODEL + "\ndef batches(seed):\n    return [torch.arange(9)[None]] * 4",
        "batches(0) of my.py ended after 4 of 6 steps; let it go on, or give fewer --steps",
    ),
    "no batches": (MODEL + "\ndef batches(seed):\n    return 3", "batches(0) of my.py raised TypeError"),
    "batches raise": (
        MODEL + "\ndef batches(seed):\n    yield torch.arange(9)[None]\n    raise KeyError('second')",
        "batches(0) of my.py raised KeyError: 'second'",
    ),
    "batch raises": (MODEL + "\ndef batch(seed):\n    return {0: 1}[seed + 1]", "batch(0) of my.py raised KeyError: 1"),
    "no embedding": ("from torch import nn\ndef build(width):\n    return nn.Linear(width, width)", "no nn.Embedding"),
    "meta": (MODEL.replace("    return nn", "    with torch.device('meta'):\n        return nn"), "on the meta device"),
    "frozen": (MODEL.replace("nn.Linear(width, 16))", "nn.Linear(width, 16)).requires_grad_(False)"), "error: "),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_one_line_and_nothing_half_written(what):
    text, said = WRONG[what]
    answer = swept(text, "--jobs", "1")
    assert answer.code == exits.USAGE, answer.err
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last, answer.err
    assert answer.out == "" and not list(Path("results").glob("*/runs/*"))


def test_what_is_raised_in_a_process_is_told_as_if_it_were_here():
    text = (
        MODEL + OPTIMIZER + BATCH.replace("return", "if seed > 2_000_000:\n        raise OSError('disk')\n    return")
    )
    answer = swept(text, "--jobs", "2")
    assert answer.code == exits.USAGE
    *_, frame, code, last = answer.err.strip().splitlines()
    assert 'my.py", line' in frame and "in batch" in frame and "raise OSError" in code
    assert last == "error: batch(2000001) of my.py raised OSError: disk"
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layers", "3"), "--layers is of mupcheck's own models; with --model, my.py says what is trained"),
        (("--target", "512"), "--target is of mupcheck's own models"),
        (("--widths", "16,16"), "widths '16,16' are not numbers above 0, each named once"),
        (("--lrs", "0"), "lrs '0.0' are not numbers above 0"),
        (("--steps", "0"), "steps 0 is not at least 1"),
        (("--schedule", "step"), "schedule 'step' is unknown; known: constant, cosine, linear"),
        (("--warmup", "6"), "warmup_steps=6 leaves nothing of steps=6; try fewer"),
        (("--expect", "pass"), "--expect 'pass' is unknown; known: transfers, drifts"),
        (("--name", "a/b"), "name 'a/b' is none"),
        (("--device", "tpu"), "device 'tpu' is unknown"),
    ],
)
def test_a_wrong_option_is_one_line(arguments, said):
    answer = swept(MODEL, *arguments)
    assert answer.code == exits.USAGE
    assert said in answer.err and len(answer.err.strip().splitlines()) == 1
    assert not Path("results").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_model_and_batch_go_to_the_gpu():
    answer = swept(MODEL + OPTIMIZER + BATCH, "--device", "cuda:0")
    assert answer.code in (exits.OK, exits.CANNOT_TELL), answer.err
    assert not set(runs_of()["device"]) & {"cpu"} and len(runs_of()) == 63
    audited = mupcheck("audit", "my.py", "--widths", "32,64,128", "--seeds", "2", "--lr", "0.01", "--device", "cuda:0")
    assert audited.code in (exits.OK, exits.FAILED, exits.CANNOT_TELL), audited.err
    assert runs_of("my")["device"].str.startswith("cuda").all()
