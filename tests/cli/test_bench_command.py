"""The command `bench`, end to end on a CPU with shapes so small that it takes a few seconds."""

import json

import pytest
from commands import mupcheck

from mupcheck.bench import coord, op, run, step, timing
from mupcheck.cli import exits


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Make the ceilings and the step small, and the time of each call short."""
    monkeypatch.setitem(timing.PRODUCT_SIZE, "cpu", 64)
    monkeypatch.setitem(timing.COPY_BYTES, "cpu", 2**16)
    monkeypatch.setattr(run, "QUICK_SECONDS", 0.002)
    monkeypatch.setattr(run, "SECONDS", 0.002)
    monkeypatch.setattr(op, "CPU_BATCH", (1, 40))
    monkeypatch.setattr(op, "LENGTHS", (16, 32))
    small = {"n_layers": 1, "batch_size": 1, "seq_len": 16, "bursts": 1}
    monkeypatch.setattr(step, "CPU", step.replace(step.CPU, **small))


def test_from_options_to_files(tmp_path, monkeypatch):
    options = ("--device", "cpu", "--shapes", "8x16", "--widths", "16", "--quick", "--no-peers")
    monkeypatch.setattr(coord, "_ours", lambda device, widths: 7)
    answer = mupcheck("bench", "all", *options, "--out", tmp_path / "out", "--json")
    assert answer.code == exits.OK
    document = answer.json
    assert document == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert {row["suite"] for row in document["rows"]} == {"op", "step", "coord"}
    assert all(row["refused"] is None and row["times"] for row in document["rows"]), document["rows"]
    for name in ("device", "date", "commit", "torch", "python", "peers", "threads"):
        assert name in document["provenance"]
    assert document["machine"]["flops_per_second"] > 0
    page = (tmp_path / "out" / "bench.md").read_text()
    assert "**op, K=8 V=16" in page and "**step, d=16" in page and "**coord, widths 16" in page
    assert document["provenance"]["device"] in page
    assert len(answer.err.splitlines()) == len(document["rows"]) + 1


def test_a_backend_that_is_wrong_fails_and_gets_no_time(monkeypatch):
    right = op.gated_delta_rule

    def off(q, *args, backend, **options):
        output, state = right(q, *args, backend=backend, **options)
        return output * (1.01 if backend == "chunk" and q.dtype != op.torch.float64 else 1.0), state

    monkeypatch.setattr(op, "gated_delta_rule", off)
    answer = mupcheck("bench", "op", "--device", "cpu", "--shapes", "8x16", "--no-peers")
    assert answer.code == exits.FAILED
    assert "chunk: no time, as it disagrees with float64: o by 1.0e-02" in answer.out
    assert "reference" in answer.out


def test_scaling_takes_the_lengths_in_turn():
    answer = mupcheck("bench", "op", "--device", "cpu", "--shapes", "8x8", "--no-peers", "--scaling", "--json")
    assert [row["facts"]["T"] for row in answer.json["rows"]] == [16, 32]
    assert [row["facts"]["tokens"] for row in answer.json["rows"]] == [16, 32]
    assert {row["backend"] for row in answer.json["rows"]} == {"chunk"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("opp",), "unknown; known: all, op, step, coord"),
        (("op", "--shapes", "32"), "'32' is not K x V"),
        (("op", "--shapes", "0x4"), "is not K x V"),
        (("op", "--device", "tpu"), "device 'tpu' is unknown"),
        (("op", "--device", "cuda:99"), "torch sees"),
        (("op", "--backend", "cudnn"), "'cudnn' is unknown"),
        (("op", "--backend", "triton", "--device", "cpu"), "'triton' needs a CUDA device"),
        (("step", "--widths", "4096", "--backend", "triton", "--device", "cpu"), "'triton' needs a CUDA device"),
        (("step", "--widths", "a"), "is not a list of whole numbers"),
        (("step", "--widths", "7", "--device", "cpu"), "try 8"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, said):
    answer = mupcheck("bench", *arguments)
    assert answer.code == exits.USAGE
    assert answer.out == "" and said in answer.err.splitlines()[-1]
