"""What a recorder writes of any torch model: against our own probes, numbers by hand, and that it only looks."""

import gc
import math

import pytest
import torch
import torch.nn.functional as F
from own_models import Transformer, adamw, loss_of, split, tokens, train
from torch import nn

import mupcheck
from mupcheck.measuring.probes import Probe
from mupcheck.recording.recorder import Recorder, log_spaced
from mupcheck.recording.tables import check_name
from mupcheck.recording.uses import Uses


def recorder_of(model, optimizer, tmp_path=".", **options):
    return Recorder(model, optimizer, out=tmp_path, **{"width": 64, **options})


def values(recorder, kind, stat="rms", step=None):
    last = max(row.step for row in recorder.sizes.rows) if step is None else step
    return {
        (row.site, row.layer): row.values[0]
        for row in recorder.sizes.rows
        if (row.kind, row.stat, row.step) == (kind, stat, last)
    }


def rms(x):
    return float(x.double().square().mean().sqrt())


class Taken:
    """An optimizer as a probe asks for one."""

    steps_taken = 0

    def realised(self, lr_scale):
        return ()

    def eps_ratios(self):
        return None


@pytest.mark.parametrize("tied", [False, True])
def test_it_agrees_with_the_probes_of_our_own_model(tied):
    spec = mupcheck.ModelSpec(width=32, base_width=16, n_layers=2, vocab_size=64, tied=tied)
    model = mupcheck.build_model(spec, parametrization="gdn-mup", seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2**-8)
    recorder, probe, taken = recorder_of(model, optimizer, outputs=()), Probe(model), Taken()
    batch = tokens(shape=(1, 2, 17))
    rows = []
    for step in range(3):
        with recorder.step():
            probe.start()
            F.cross_entropy(model(batch[..., :-1]).flatten(0, 1), batch[..., 1:].flatten()).backward()
            probe.finish(taken, torch.ones(1))
            rows += probe.rows(step)
            optimizer.step()
            optimizer.zero_grad()
        taken.steps_taken += 1
    names = {id(weight.weight): (layer, site) for site, layer, weight in probe.weights}
    places = {(row.site, row.layer) for row in recorder.sizes.rows}
    assert len(places) == len(names)
    by_name = {name: names[id(parameter)] for name, parameter in recorder.sizes.parameters.items()}
    from mupcheck.recording.names import place_of

    back = {place_of(name): place for name, place in by_name.items()}
    compared = 0
    for kind, stat in (
        ("weight", "rms"), ("weight_grad", "rms"), ("weight_update", "rms"), ("weight_update", "spectral"),
        ("effective_update", "rms"),
    ):  # fmt: skip
        theirs = {
            (row.layer, row.site): row.values[0] for row in rows if (row.kind, row.stat, row.step) == (kind, stat, 2)
        }
        ours = {back[place]: value for place, value in values(recorder, kind, stat).items()}
        assert set(theirs) <= set(ours)
        # float32: the same sums in another order
        assert {at: ours[at] for at in theirs} == pytest.approx(theirs, rel=1e-6)
        compared += len(theirs)
    assert compared > 100


def test_the_effective_update_is_what_the_change_does_to_the_input(tmp_path):
    model = Transformer(64, mup=True, base=32)
    optimizer = adamw(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    recorder = recorder_of(model, optimizer)
    train(model, optimizer, tokens(), 3, recorder)
    inputs = {}
    last = {name: p.detach().clone() for name, p in model.named_parameters()}
    # one more step is recorded at the weights that are there now
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda _m, args, name=name: inputs.setdefault(name, args[0].detach()))
    train(model, optimizer, tokens(), 1, recorder)
    found = values(recorder, "effective_update")
    for layer in range(2):
        name = f"layers.{layer}.up"
        expected = rms(inputs[name] @ (last[f"{name}.weight"] - start[f"{name}.weight"]).T)
        assert found["layers.*.up.weight", layer] == pytest.approx(expected, rel=1e-5)
        change = last[f"layers.{layer}.norm1.weight"] - start[f"layers.{layer}.norm1.weight"]
        assert found["layers.*.norm1.weight", layer] == pytest.approx(rms(change), rel=1e-5)
    head = rms(inputs["head"] @ (last["head.weight"] - start["head.weight"]).T) / model.m
    assert found["head.weight", -1] == pytest.approx(head, rel=1e-5)  # its logits carry 1/m
    looked_up = (last["embedding.weight"] - start["embedding.weight"])[inputs["embedding"]]
    assert found["embedding.weight", -1] == pytest.approx(rms(looked_up), rel=1e-5)
    assert recorder.unseen == ()
    assert len(found) == len(start)


def test_a_tied_weight_counts_for_each_use():
    model = Transformer(32, mup=True, tied=True, base=16)
    optimizer = adamw(model)
    recorder = recorder_of(model, optimizer)
    train(model, optimizer, tokens(), 2, recorder)
    found = values(recorder, "effective_update")
    assert {"embedding.weight@embedding", "embedding.weight@linear"} <= {site for site, _ in found}
    assert recorder.sizes.tied


class Odd(nn.Module):
    """Uses of weights that no module makes: functional, transposed, sliced, convolved; and one that nobody can see."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, 16))
        self.right = nn.Parameter(torch.randn(16, 24) / 4)
        self.experts = nn.Parameter(torch.randn(3, 16, 24) / 5)
        self.conv = nn.Conv1d(16, 16, 4, groups=16, padding=3)
        self.hidden = nn.Parameter(torch.randn(2, 16, 16) / 4)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)

    def forward(self, x):
        x = F.embedding(x, self.table)
        x = self.frozen(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        x = torch.tanh(x @ self.right)
        x = sum(F.linear(x, self.experts[i]) for i in (0, 2))
        x = x + torch.einsum("bti,ij->btj", x, self.hidden[0] * self.hidden[1])
        return F.linear(x, self.table) * 0.25


def test_uses_are_seen_whoever_makes_them():
    torch.manual_seed(0)
    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = recorder_of(model, optimizer)
    train(model, optimizer, tokens(), 2, recorder)
    found = {site for site, _ in values(recorder, "effective_update")}
    assert {"table@embedding", "table@linear", "right", "experts", "conv.weight", "conv.bias"} == found
    assert recorder.unseen == ("hidden",)
    assert ("hidden", -1) in values(recorder, "effective_update", "spectral")
    assert ("frozen.weight", -1) not in values(recorder, "weight_update")
    assert values(recorder, "diagnostic", "frozen", step=0)["frozen.weight", -1] == 1
    assert values(recorder, "diagnostic", "multiplier", step=0)["table@linear", -1] == pytest.approx(0.25)
    assert values(recorder, "diagnostic", "fan_in", step=0)["right", -1] == 16
    assert values(recorder, "diagnostic", "fan_in", step=0)["experts", -1] == 24
    assert values(recorder, "diagnostic", "fan_in", step=0)["conv.weight", -1] == 4


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.25, batch_first=True)
        self.head = nn.Linear(32, 64)

    def forward(self, x):
        return self.head(self.layer(self.embedding(x)))


def test_torchs_own_attention_is_seen_from_inside():
    found = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = Attention()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2**-8)
        recorder = recorder_of(model, optimizer) if recorded else None
        losses = train(model, optimizer, tokens(), 3, recorder)
        found.append([*losses, *model.parameters()])
    assert all(map(torch.equal, *found))
    assert recorder.unseen == ()
    seen = values(recorder, "effective_update")
    assert {"layer.self_attn.in_proj_weight", "layer.self_attn.out_proj.weight"} <= {site for site, _ in seen}
    assert values(recorder, "diagnostic", "fan_out", step=0)["layer.self_attn.in_proj_weight", -1] == 96
    assert torch.nn.functional.has_torch_function is torch.overrides.has_torch_function


# --- looking changes nothing ------------------------------------------------------------------------------------------


class Dropping(Transformer):
    def forward(self, x):
        return super().forward(x) + 0 * F.dropout(torch.ones(1), 0.5)


def trained(recorded, *, autocast=False, steps=4):
    torch.manual_seed(1)
    model = Dropping(32)
    for layer in model.layers:
        layer.o = nn.Sequential(layer.o, nn.Dropout(0.5))
    optimizer = adamw(model)
    recorder = recorder_of(model, optimizer) if recorded else None

    def loss(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return loss_of(model, batch)

    losses = train(model, optimizer, tokens(), steps, recorder, loss)
    return torch.stack(losses), [p.detach() for p in model.parameters()], recorder


def same(one, other):
    return torch.equal(one[0], other[0]) and all(map(torch.equal, one[1], other[1]))


@pytest.mark.parametrize("autocast", [False, True])
def test_looking_changes_nothing_bit_for_bit(autocast):
    plain, recorded = trained(False, autocast=autocast), trained(True, autocast=autocast)
    assert torch.isfinite(plain[0]).all()
    assert same(plain, recorded)
    assert len(values(recorded[2], "effective_update")) == len(plain[1])


def test_a_recorder_that_draws_random_numbers_would_be_seen(monkeypatch):
    def draws(self, *args):
        torch.rand(1)

    plain = trained(False)
    monkeypatch.setattr(Uses, "forget", draws)
    assert not same(plain, trained(True))


def test_under_autocast_changes_are_not_rounded_to_bfloat16():
    exact, rounded = (values(trained(True, autocast=on)[2], "effective_update") for on in (False, True))
    # inputs are rounded by 2^-9, and AdamW's first steps turn the sign of gradients that are near 0
    assert rounded == pytest.approx(exact, rel=0.1)


def test_hooks_and_graphs_are_gone_after_each_step():
    model = Transformer(32)
    optimizer = adamw(model)
    recorder = recorder_of(model, optimizer)
    train(model, optimizer, tokens(), 2, recorder)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not optimizer._optimizer_step_pre_hooks and recorder.uses.found == []
    gc.collect()
    with pytest.raises(RuntimeError, match="shape"), recorder.step():
        model(torch.zeros(1, 2, 3, 4).long())
    assert not any(module._forward_hooks for module in model.modules())


def test_steps_are_log_spaced_unless_asked_for():
    assert [step for step in range(50) if log_spaced(step)] == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    model = Transformer(32)
    optimizer = adamw(model)
    recorder = recorder_of(model, optimizer, record=(1, 3), outputs=["norm"])
    train(model, optimizer, tokens(), 5, recorder)
    assert {row.step for row in recorder.sizes.rows} == {1, 3}
    assert values(recorder, "activation").keys() == {("norm", -1)}
    assert recorder.cost.startswith("recording took ")


# --- what it writes ---------------------------------------------------------------------------------------------------


def test_what_is_written_can_be_loaded_and_says_what_was_applied(tmp_path):
    model = Transformer(64, mup=True, base=32)
    hidden, rest = split(model)
    optimizers = [torch.optim.SGD(hidden, lr=0.25, momentum=0.5), torch.optim.AdamW(rest, lr=2**-9, weight_decay=0.125)]
    recorder = recorder_of(model, optimizers, tmp_path, name="mine", seed=3)
    for _ in range(2):
        with recorder.step() as step:
            step.loss = loss_of(model, tokens())
            step.loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert recorder.write() == tmp_path / "mine"
    results = mupcheck.load_results(tmp_path)
    run = results.runs.iloc[0]
    assert (run["sweep"], run["optimizer"], run["width"], run["seed"]) == ("mine", "sgd+adamw", 64, 3)
    assert run["n_params"] == sum(p.numel() for p in model.parameters())
    assert results.steps["loss"].notna().all() and math.isfinite(results.steps["grad_norm"].iloc[0])
    rows = results.coords[results.coords["kind"] == "diagnostic"]
    applied = {(row.site, row.stat): row.value for row in rows.itertuples()}
    assert applied["layers.*.q.weight", "realised_lr"] == 0.25
    assert applied["layers.*.q.weight", "realised_momentum"] == 0.5
    assert applied["head.weight", "realised_lr"] == 2**-9
    assert applied["head.weight", "realised_wd"] == 0.125
    assert applied["head.weight", "realised_eps"] == 1e-8
    assert applied["head.weight", "realised_beta2"] == 0.999


def test_a_loss_that_is_no_number_makes_a_diverged_run(tmp_path):
    model = Transformer(32)
    recorder = recorder_of(model, adamw(model), tmp_path)
    with recorder.step() as step:
        step.loss = loss_of(model, tokens()) * math.nan
    recorder.write()
    assert mupcheck.load_results(tmp_path).runs["status"].tolist() == ["diverged"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "gpt"}, "model is a str, not a torch.nn.Module"),
        ({"model": nn.ReLU()}, "the model has no parameters"),
        ({"model": nn.Linear(4, 4, device="meta")}, "parameter weight is on the meta device"),
        ({"optimizer": "adamw"}, "optimizer is a str, not a torch.optim.Optimizer"),
        ({"optimizer": []}, "optimizer is an empty list"),
        ({"width": 64.0}, r"width=64.0 is not a whole number of at least 1"),
        ({"seed": -1}, "seed=-1 is not a whole number"),
        ({"name": "a/b"}, "name 'a/b' is none"),
        ({"multipliers": {"haed": 2.0}}, "multipliers has 'haed', which no parameter is called"),
        ({"multipliers": {"head": 0}}, "is not a number other than 0"),
    ],
)
def test_what_it_cannot_record_is_named(change, said):
    model = Transformer(32)
    given = {"model": model, "optimizer": adamw(model), **change}
    with pytest.raises(ValueError, match=said):
        recorder_of(given.pop("model"), given.pop("optimizer"), **given)


def test_nothing_recorded_is_nothing_written(tmp_path):
    model = Transformer(32)
    with pytest.raises(ValueError, match="nothing was recorded in 0 steps"):
        recorder_of(model, adamw(model), tmp_path).write()
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_one_a_folder_can_have():
    for name in ("", "a/b", "a\n", "." * 3, "x" * 101, 3):
        with pytest.raises(ValueError, match=r"name .* is none"):
            check_name(name)
    assert check_name("a-b_1.2") == "a-b_1.2"
