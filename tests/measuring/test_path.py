"""The backend against the reference on a model's own inputs: clean ones agree, each planted fault is named."""

from contextlib import nullcontext

import pytest
import torch

from mupcheck.measuring.path import INPUTS, LONG, TOLERANCES, capture, compare, strained, tolerance_of
from mupcheck.model import build_model, gdn
from mupcheck.ops import gated_delta_rule
from mupcheck.ops.chunk import CHUNK, LONGEST_SINGLE_CHUNK, chunking
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import TABLES


def run_of(*, width=16, dtype="float32", backend="chunk", **changes):
    fields = {"width": width, "base_width": 16, "vocab_size": 32, "n_layers": 2, "n_heads": 2, "seed": 3, "lr": 1.0}
    fields |= {"parametrization": "gdn-mup", "table": TABLES["gdn-mup"], "optimizer": "adamw"}
    return RunSpec(**fields | {"dtype": dtype, "backend": backend} | changes)


def errors_at(tokens, *, pairs=4, change=None, **fields):
    """Return the errors of a model's calls over two sequences, the model changed first."""
    run = run_of(**fields)
    model = build_model([run])
    if change is not None:
        change(model)
    batch = torch.randint(32, (1, 2, tokens), generator=torch.Generator().manual_seed(tokens))

    def context():
        return torch.autocast("cpu", torch.bfloat16) if run.dtype == "bfloat16" else nullcontext()

    return compare(capture(model, batch, context()), pairs, context())


def departing(tokens, *, dtype="float32", **fields):
    """Return what departs, by name and layer."""
    found = errors_at(tokens, dtype=dtype, **fields)
    return {(each.what, each.layer): each for each in found if each.departs(TOLERANCES[dtype])}


def planted(monkeypatch, fault):
    """Let the model call `fault(rule, inputs)` in place of the delta rule, which is the first argument."""

    def patched(*inputs, **options):
        options |= {"final_state": True}  # which a model asks for only where a probe looks
        return fault(lambda *given: gated_delta_rule(*given, **options), inputs)

    monkeypatch.setattr(gdn, "gated_delta_rule", patched)


class Scaled(torch.autograd.Function):
    """x itself, whose gradient comes back times a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


# --- what is clean ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("tokens", [1, 2, 16, 64, 65, LONG])
def test_clean_inputs_agree_with_room_to_spare(tokens, dtype):
    found = errors_at(tokens, dtype=dtype)
    assert {(each.what, each.layer) for each in found} == {
        (what, layer)
        for what in ("o", "final_state", *(f"gradient of {name}" for name in INPUTS))
        for layer in range(2)
    }
    # a third: what a bfloat16 rounds away is 0.26 of its tolerance, and the others are further below theirs
    assert not [each for each in found if each.departs(TOLERANCES[dtype] / 3)]


def gates_at(z):
    """Return a change of a model: the state is kept by exp(-softplus(z)) or so at every step, whatever is seen."""

    def change(model):
        with torch.no_grad():
            for block in model.blocks:
                block.mixer.dt_bias.weight.fill_(z)
                block.mixer.A_log.weight.fill_(0.0)
                block.mixer.a_proj.weight.mul_(0.1)

    return change


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("z", [-12.0, 3.0, 30.0, 200.0])
def test_gates_that_keep_all_or_forget_all_agree(z, dtype):
    assert not departing(LONG, dtype=dtype, change=gates_at(z))


def test_a_model_whose_v_is_zero_agrees():
    def change(model):
        for block in model.blocks:
            block.mixer.v_proj.weight.data.zero_()

    assert not departing(20, change=change)


@pytest.mark.parametrize("fields", [{"width": 64}, {"width": 64, "mode": "heads"}, {"backend": "reference"}])
def test_other_shapes_and_the_reference_itself_agree(fields):
    assert not departing(LONG, **fields)


def test_the_long_sequence_crosses_chunks_and_ends_in_a_part_of_one():
    n_chunks, size = chunking(LONG)
    assert n_chunks > 2
    assert n_chunks * size > LONG
    assert LONG > 2 * LONGEST_SINGLE_CHUNK
    assert all(LONG % chunk for chunk in (16, CHUNK, LONGEST_SINGLE_CHUNK, 128))


def test_products_that_may_be_rounded_are_allowed_to_be():
    assert [tolerance_of(dtype) for dtype in TOLERANCES] == list(TOLERANCES.values())
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")  # as some containers do by their environment
        assert tolerance_of("float32") == TOLERANCES["bfloat16"]
        assert tolerance_of("float64") == TOLERANCES["float64"]
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_model_without_a_delta_rule_is_refused():
    with pytest.raises(ValueError, match="does not call"):
        compare([], 4, nullcontext())


def test_inputs_that_are_not_finite_are_refused_or_left_out():
    def change(layer):
        return lambda model: model.blocks[layer].mixer.b_proj.weight.data.fill_(float("nan"))

    with pytest.raises(ValueError, match="not finite"):
        errors_at(4, change=change(0))
    found = errors_at(4, change=change(1))
    assert {each.layer for each in found} == {0}
    assert not any(each.departs(TOLERANCES["float32"]) for each in found)


# --- what is planted --------------------------------------------------------------------------------------------------


def wrong_late(rule, inputs):
    o, state = rule(*inputs)
    if o.shape[1] > 64:
        o = torch.cat([o[:, :64], 1.001 * o[:, 64:]], 1)
    return o, state


def wrong_at_the_end(rule, inputs):
    o, state = rule(*inputs)
    end = o.shape[1] // 32 * 32 or o.shape[1]
    return torch.cat([o[:, :end], o[:, end:].flip(1)], 1), state


def not_carried(rule, inputs):
    parts = [rule(*(x[:, start : start + 64] for x in inputs)) for start in range(0, inputs[0].shape[1], 64)]
    return torch.cat([o for o, _ in parts], 1), parts[-1][1]


def no_number(rule, inputs):
    o, state = rule(*inputs)
    o = o.clone()
    o[-1, 100:101, -1, 0] = float("nan")
    return o, state


@pytest.mark.parametrize(
    ("fault", "first", "last"),
    [
        (wrong_late, 64, LONG - 1),
        (wrong_at_the_end, 160, LONG - 1),
        (not_carried, 64, LONG - 1),
        (no_number, 100, 100),
    ],
)
def test_a_kernel_that_is_wrong_beyond_a_chunk_is_seen_there_and_not_before(fault, first, last, monkeypatch):
    planted(monkeypatch, fault)
    found = departing(LONG)
    # a layer whose input is not finite is not the one to look at
    for layer in range(1 if fault is no_number else 2):
        off = found["o", layer].departing(TOLERANCES["float32"])
        assert (off[0], off[-1]) == (first, last)
    assert {layer for _, layer in found} == ({0} if fault is no_number else {0, 1})
    assert not departing(16)
    assert not departing(64)  # as long as one chunk is


def test_a_state_that_is_not_carried_is_wrong_in_the_end(monkeypatch):
    planted(monkeypatch, not_carried)
    assert ("final_state", 0) in departing(LONG)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", INPUTS)
def test_a_gradient_that_is_scaled_or_missing_is_named_alone(name, dtype, monkeypatch):
    i = INPUTS.index(name)

    def scaled(rule, inputs):
        return rule(*(Scaled.apply(x, 0.97) if j == i else x for j, x in enumerate(inputs)))

    def missing(rule, inputs):
        return rule(*(x.detach() if j == i else x for j, x in enumerate(inputs)))

    planted(monkeypatch, scaled)
    found = departing(16, dtype=dtype)
    assert set(found) == {(f"gradient of {name}", layer) for layer in range(2)}
    for each in found.values():
        assert each.factor == pytest.approx(0.97, rel=1e-3 if dtype == "bfloat16" else 1e-6)
        assert each.rest <= TOLERANCES[dtype]
    planted(monkeypatch, missing)
    found = departing(16, dtype=dtype)
    assert set(found) == {(f"gradient of {name}", layer) for layer in range(2)}
    assert all(each.missing for each in found.values())


def test_a_kernel_without_a_way_back_lacks_every_gradient(monkeypatch):
    planted(monkeypatch, lambda rule, inputs: [x.detach() for x in rule(*inputs)])
    assert {what for what, _ in departing(16)} == {f"gradient of {name}" for name in INPUTS}


def test_a_decay_that_is_applied_twice_is_seen_in_all_that_follows(monkeypatch):
    planted(monkeypatch, lambda rule, inputs: rule(*inputs[:3], 2 * inputs[3], inputs[4]))
    found = departing(16)
    assert {what for what, _ in found} >= {"o", "final_state", "gradient of v", "gradient of log_alpha"}
    assert found["o", 0].departing(TOLERANCES["float32"])[0] == 1  # the first token has no state to decay


def test_a_kernel_that_is_wrong_in_bfloat16_alone_is_seen_there_alone(monkeypatch):
    def fault(rule, inputs):
        more = 1.2 if inputs[0].dtype == torch.bfloat16 else 1.0
        return rule(*inputs[:3], more * inputs[3], inputs[4])

    planted(monkeypatch, fault)
    assert not departing(LONG)
    assert ("o", 0) in departing(LONG, dtype="bfloat16")


def by_a_series(rule, inputs):
    """Solve (I + A) U = W by some terms of its power series, and no chunks: right while keys have little in common."""
    q, k, v, log_alpha, beta = inputs
    c = log_alpha.double().cumsum(1).transpose(1, 2)  # [B, H, T]
    decay = (c[..., :, None] - c[..., None, :]).tril().exp().tril()
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    beta_k = beta.double().transpose(1, 2)[..., None] * k
    a = (beta_k @ k.mT * decay).tril(-1)
    term = writes = beta.double().transpose(1, 2)[..., None] * v
    for _ in range(24):
        term = -a @ term
        writes = writes + term
    o = (q @ k.mT * decay).tril() @ writes
    state = (decay[..., -1, :, None] * k).mT @ writes
    return o.transpose(1, 2).to(inputs[2]), state.float()


def test_keys_that_are_alike_show_a_kernel_that_solves_by_a_series(monkeypatch):
    def both(tokens):
        model = build_model([run_of()])
        batch = torch.randint(32, (1, 2, tokens), generator=torch.Generator().manual_seed(1))
        calls = capture(model, batch, nullcontext())
        worst = [max(each.error for each in compare(these, 4, nullcontext())) for these in (calls, strained(calls))]
        return [error / TOLERANCES["float32"] for error in worst]

    assert max(both(LONG)) < 1
    planted(monkeypatch, by_a_series)
    own, alike = both(48)
    assert own < 1
    assert alike > 100


@pytest.mark.parametrize("place", [(0, 0), (-1, -1)])
def test_a_kernel_that_is_wrong_for_the_first_or_last_head_alone_is_seen(place, monkeypatch):
    def fault(rule, inputs):
        o, state = rule(*inputs)
        more = torch.zeros_like(state)
        more[place] = 0.01 * state[place].detach()
        return o, state + more

    planted(monkeypatch, fault)
    assert {what for what, _ in departing(16, pairs=2)} == {"final_state"}
