"""How many seeds a coordinate check has by itself."""

from mupcheck.spec.reading import make_sweep


def seeds(device="cuda", **given):
    return len(make_sweep({"kind": "coord", "data": "synthetic", **given}, device=device).seeds)


def test_three_widths_on_a_gpu_have_more_seeds_as_a_second_round_costs_more_there():
    assert seeds(widths=[256, 512, 1024]) == 24
    assert seeds(widths=[256, 512, 1024, 2048]) == seeds() == 16
    assert seeds("cpu", widths=[32, 64, 128]) == seeds("cpu") == 16
    assert seeds(widths=[256, 512, 1024], optimizer="sgd") == 32
    assert seeds(widths=[256, 512, 1024], seeds=5) == 5
