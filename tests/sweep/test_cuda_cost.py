"""Memory and time of the fused kernels: counted by hand at one size, and near what was measured on a GPU."""

import pytest

from mupcheck.sweep import cost, cuda_cost

# on an H200, 2026-11: 8 layers, 6 heads, 8 x 1024 tokens, bytes, AdamW, bfloat16; width, R, GiB at the peak of a step,
# by the allocator (a tenth more where it was not looked at), and ms a step
MEASURED = [(256, 1, 1.17, 1.37, 4.63), (256, 16, 17.9, 19.4, 38.4), (512, 8, 20.0, 22.0, 49.6)]
MEASURED += [(1024, 8, 48.8, 55.3, 146.5), (1536, 2, 22.4, 24.6, 77.6)]
PAPER = {"base_width": 256, "n_layers": 8, "n_heads": 6, "head_k_dim": 32, "head_v_dim": 64, "vocab_size": 256}
PAPER |= {"batch_size": 8, "seq_len": 1024, "steps": 100, "dtype": "bfloat16", "backend": "triton"}


def test_what_a_token_keeps_is_what_the_docstring_lists(make_run):
    run = make_run(width=256, **PAPER)
    d, h, heads, k, v, e = 256, 1024, 6, 32, 64, 2
    listed = [8 * d, 2 * e * d, 3 * e * h, 2 * e * heads * (2 * k + v), 4 * e * heads * v]
    listed += [e * heads * (64 + k * v // 64), 4 * (2 + 7 * heads)]
    assert cuda_cost.kept_bytes(run) == sum(listed)


@pytest.mark.parametrize(("width", "replicas", "peak", "reserved", "ms"), MEASURED)
def test_memory_and_time_are_near_what_was_measured_and_memory_is_not_below(
    make_run, width, replicas, peak, reserved, ms
):
    run = make_run(width=width, **PAPER)
    estimated = cost.group_bytes(run, replicas) / 2**30
    assert reserved < estimated < 1.3 * peak + 0.4
    # the torch forms keep more: 30 GiB at width 256
    chunk = make_run(width=width, **PAPER | {"backend": "chunk"})
    assert cost.group_bytes(chunk, replicas) > 1.3 * estimated * 2**30
    values, flops = cost.count_parameters(run), cost.step_flops(run)
    nominal = 1e3 * cuda_cost.step_seconds(run, replicas, flops=flops, values=values)
    assert 1 / 1.2 < nominal / ms < 1.2


def test_memory_grows_with_everything_it_is_made_of(make_run):
    plain = cost.group_bytes(make_run(width=256, **PAPER), 4)
    more = {"width": 512, "batch_size": 9, "seq_len": 1100, "n_layers": 9, "vocab_size": 3000, "dtype": "float32"}
    for name, value in more.items():
        assert cost.group_bytes(make_run(**{"width": 256, **PAPER, name: value}), 4) > 1.01 * plain, name
    # a large vocabulary has its logits in parts: twice of it costs its weights and moments alone
    large, larger = (cost.group_memory(make_run(width=256, **PAPER | {"vocab_size": n}), 1) for n in (50_000, 100_000))
    assert larger.activations == large.activations
    assert larger.weights > large.weights
    # with few tokens what counts is the end of the way back, where all gradients are there
    few = make_run(width=1024, **PAPER | {"batch_size": 1, "seq_len": 16})
    values = cost.count_parameters(few)
    assert cost.group_memory(few, 1).activations > 4 * values


def test_time_grows_with_replicas_less_than_they_do(make_run):
    run = make_run(width=256, **PAPER)
    one, four = (cost.cuda_seconds(run, replicas) for replicas in (1, 4))
    assert one < four < 4 * one
    assert cost.cuda_seconds(make_run(width=256, **PAPER | {"dtype": "float32"}), 4) > 2 * four
    # without the kernels the host calls torch form by form
    assert cost.cuda_seconds(make_run(width=256, **PAPER | {"backend": "chunk"}), 1) > 5 * one
