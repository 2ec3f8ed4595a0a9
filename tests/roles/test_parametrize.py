"""A table applied to a plain torch model gives what it gives our own: factors, and the same training, step by step."""

import itertools

import pytest
import torch
from plain_gdn import PlainGDN, losses_of_plain, plain_copy, plain_name
from small_results import refusal
from torch import nn

import mupcheck
from mupcheck.model.build import build_model, parameter_groups, parameter_values
from mupcheck.roles.realised import lrs_of
from mupcheck.spec.model import ModelSpec
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import TABLES
from mupcheck.training.optim import make_optimizer

BASE, WIDTH = 16, 32
CASES = [
    pytest.param(table, optimizer, mode, tied, id=f"{table} {optimizer} {mode} {'tied' if tied else 'untied'}")
    for table, optimizer, mode, tied in itertools.product(TABLES, ("adamw", "sgd"), ("head-dim", "heads"), (0, 1))
]


def run_of(table, optimizer, mode, tied, width=WIDTH, **more):
    given = {
        "width": width, "base_width": BASE, "mode": mode, "tied": bool(tied), "n_layers": 2, "n_heads": 2,
        "vocab_size": 32, "readout_std": 0.25, "norm_eps": 1e-2, "parametrization": table, "optimizer": optimizer,
        "lr": 2**-6, "seed": 0, "dtype": "float64", "momentum": 0.5, "backend": "chunk",
    }  # fmt: skip
    return RunSpec(**given | {"table": TABLES[table]} | more)


def plain_of(run, width):
    """Return our model under sp, of one init std at every width as libraries have it, in plain torch."""
    sp = run_of("sp", run.optimizer, run.mode, run.tied, width)
    return plain_copy(build_model([sp]), sp)


def torch_optimizer(groups, run):
    if run.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(run.beta1, run.beta2))
    return torch.optim.SGD(groups, momentum=run.momentum, nesterov=True)


def losses_of_ours(run, tokens, steps):
    model = build_model([run])
    optimizer = make_optimizer(parameter_groups(model, [run]), [run])
    found = []
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        loss = model.loss(tokens[None])
        loss.sum().backward()
        found.append(loss.item())
        optimizer.step(torch.ones(1, dtype=torch.float64), optimizer.gradient_norm(), torch.ones(1, dtype=torch.bool))
    return found


TOKENS = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("table", "optimizer", "mode", "tied"), CASES)
def test_a_plain_model_trains_as_ours(table, optimizer, mode, tied):
    run = run_of(table, optimizer, mode, tied, weight_decay=0.3, decay_mode="independent" if tied else "coupled")
    model, groups = parametrized(run)
    ours = losses_of_ours(run, TOKENS, 3)
    plain = losses_of_plain(model, torch_optimizer(groups, run), TOKENS, 3)
    assert ours[-1] != pytest.approx(ours[0], abs=1e-3)
    # float64, sums in another order
    assert plain == pytest.approx(ours, rel=1e-9)


def test_under_another_table_it_does_not():
    run = run_of("gdn-mup", "sgd", "head-dim", 0)
    ours = losses_of_ours(run, TOKENS, 3)
    for table in ("mup", "mup-strict", "sp"):  # the first differs in the lr of gates and in what eps takes up alone
        model, groups = parametrized(run_of(table, "sgd", "head-dim", 0))
        plain = losses_of_plain(model, torch_optimizer(groups, run), TOKENS, 3)
        assert plain != pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize(("table", "optimizer", "mode", "tied"), CASES)
def test_factors_are_those_of_our_own_table(table, optimizer, mode, tied):
    run = run_of(table, optimizer, mode, tied)
    base = plain_of(run, BASE)
    plain, model = plain_of(run, WIDTH), plain_of(run, WIDTH)
    groups = mupcheck.parametrize(model, base=base, table=table, optimizer=optimizer, lr=run.lr)
    before, after = dict(plain.named_parameters()), dict(model.named_parameters())
    lrs = lrs_of([torch_optimizer(groups, run)], model)
    behind = {"readout": "logits", "o_proj": "mixer_out"}
    for row in parameter_values(run):
        name = plain_name(row["site"], 0 if row["site"] not in ("embedding", "readout", "final_norm_gain") else -1)
        site = behind.get(row["site"])
        c = run.m ** run.table.multiplier(site, mode=mode) if site else 1
        # a multiplier behind a weight is in its init and lr
        init = run.m ** run.table.rule(row["role"], optimizer=optimizer, mode=mode).init * c
        torch.testing.assert_close(after[name].detach(), before[name].detach() * init, rtol=1e-14, atol=0)
        assert lrs[name] == pytest.approx(run.lr * row["lr"] * (c if optimizer == "adamw" else c * c), rel=1e-14)


def parametrized(run):
    model = plain_of(run, run.width)
    groups = mupcheck.parametrize(
        model, base=plain_of(run, BASE), table=run.parametrization, optimizer=run.optimizer, lr=run.lr,
        weight_decay=run.weight_decay, decay_mode=run.decay_mode, eps=run.eps,
    )  # fmt: skip
    return model, groups


# --- the base width ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_at_the_base_width_nothing_changes(table):
    run = run_of(table, "adamw", "head-dim", 1, BASE)
    model, base = plain_of(run, BASE), plain_of(run, BASE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(TOKENS)
    groups = mupcheck.parametrize(model, base=base, table=table, optimizer="adamw", lr=0.01, weight_decay=0.1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model(TOKENS), logits)
    assert {(group["lr"], group["eps"]) for group in groups} == {(0.01, 1e-8)} and not groups.hooked
    # what decays does not depend on the width
    wide, wide_groups = parametrized(run_of(table, "adamw", "head-dim", 1, weight_decay=0.1, decay_mode="coupled"))
    assert decayed(model, groups) == decayed(wide, wide_groups)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in decayed(model, groups)} == {
        *("embed", "q_proj", "k_proj", "v_proj", "g_proj", "a_proj", "b_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def decayed(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[each] for group in groups if group["weight_decay"] for each in group["params"]}


# --- the model's own init ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["mup", "sp"])
def test_what_the_library_does_with_width_is_not_done_twice(table):
    """torch's Linear has 1/sqrt(fan-in) already, its Embedding one std, an orthogonal weight another way to it."""

    def build(width):
        torch.manual_seed(width)
        model = PlainGDN(ModelSpec(width=width, base_width=64, vocab_size=100, mode="heads"))
        nn.init.orthogonal_(model.layers[0].mixer.o_proj.weight)
        nn.init.xavier_normal_(model.lm_head.weight)  # of both sides: no power of width
        nn.init.zeros_(model.layers[0].mixer.b_proj.weight)
        return model

    base, model, before = build(64), build(256), build(256)
    mupcheck.parametrize(model, base=base, table=table, optimizer="adamw", lr=0.01)
    named, old, small = (dict(each.named_parameters()) for each in (model, before, base))
    hidden = [name for name in named if "proj" in name and "b_proj" not in name]
    for name in hidden:
        # a hidden weight is exactly as torch makes it under muP; sp has the base width's std
        assert torch.equal(named[name], old[name] * (1 if table == "mup" else 2))
    assert torch.equal(named["embed.weight"], old["embed.weight"])
    assert named["layers.0.mixer.b_proj.weight"].eq(0).all()
    ratio = (named["lm_head.weight"].std() / small["lm_head.weight"].std()).item()
    assert ratio == pytest.approx(1 / 4 if table == "mup" else 1, rel=1e-3)


def test_a_weight_that_starts_at_zero_at_one_width_alone_is_refused():
    run = run_of("mup", "adamw", "heads", 0)
    model, base = plain_of(run, WIDTH), plain_of(run, BASE)
    nn.init.zeros_(model.lm_head.weight)
    before = model.layers[0].mixer.q_proj.weight.clone()
    said = refusal(mupcheck.parametrize, model, base=base, table="mup", optimizer="adamw", lr=0.1)
    assert said == "lm_head.weight starts at 0 here alone; initialise both widths in one way"
    assert torch.equal(model.layers[0].mixer.q_proj.weight, before)


# --- hooks, saving and loading ----------------------------------------------------------------------------------------


def test_a_tied_head_has_its_logits_multiplied_until_it_is_unhooked():
    run = run_of("mup", "adamw", "heads", 1)
    model, groups = parametrized(run)
    logits = model(TOKENS)
    assert groups.hooked == ["the output of lm_head times 0.5 (logits)"]
    said = refusal(mupcheck.parametrize, model, base=plain_of(run, BASE), table="mup", optimizer="adamw", lr=0.1)
    assert "parametrized already; call unhook() of its groups first" in said
    groups.unhook()
    assert torch.equal(model(TOKENS), 2 * logits)
    again = mupcheck.parametrize(
        model, base=plain_of(run, BASE), table="mup", optimizer="adamw", lr=run.lr, rescale=False
    )
    assert torch.equal(model(TOKENS), logits)
    assert [group["lr"] for group in again] == [group["lr"] for group in groups]


@pytest.mark.parametrize("tied", [0, 1])
def test_a_saved_model_is_loaded_as_any_other(tied, tmp_path):
    run = run_of("gdn-mup", "adamw", "head-dim", tied)
    model, _ = parametrized(run)
    assert list(model.state_dict()) == list(plain_of(run, WIDTH).state_dict())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    loaded = PlainGDN(run).double()
    loaded.load_state_dict(torch.load(tmp_path / "model.pt"))
    mupcheck.parametrize(loaded, base=plain_of(run, BASE), table="gdn-mup", optimizer="adamw", lr=0.1, rescale=False)
    assert torch.equal(loaded(TOKENS), model(TOKENS))


def test_a_model_that_multiplies_by_its_embedding_itself():
    class Tied(PlainGDN):
        def __init__(self, spec):
            super().__init__(spec)
            del self.lm_head

        def forward(self, tokens):
            x = self.embed(tokens)
            for layer in self.layers:
                x = layer(x)
            return self.final_norm(x) @ self.embed.weight.T

    run, by_head = run_of("mup", "adamw", "heads", 1), parametrized(run_of("mup", "adamw", "heads", 1))[0]
    base, model = (Tied(run_of("mup", "adamw", "heads", 1, width)).double() for width in (BASE, WIDTH))
    for each, width in ((base, BASE), (model, WIDTH)):
        each.load_state_dict({k: v for k, v in plain_of(run, width).state_dict().items() if k != "lm_head.weight"})
    given = {"base": base, "table": "mup", "optimizer": "adamw", "lr": 0.1}
    assert "no parameter is the readout, whose logits mup multiplies" in refusal(mupcheck.parametrize, model, **given)
    assert "no module is called 'norm'" in refusal(mupcheck.parametrize, model, **given, logits="norm")
    mupcheck.parametrize(model, **given, logits="final_norm")
    torch.testing.assert_close(model(TOKENS), by_head(TOKENS), rtol=1e-12, atol=1e-12)
    with_head = {**given, "base": plain_of(run, BASE), "logits": "lm_head"}
    assert "this one has one" in refusal(mupcheck.parametrize, plain_of(run, WIDTH), **with_head)


# --- what cannot be done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "adam"}, "optimizer = 'adam' is unknown; known: adamw, sgd"),
        ({"decay_mode": "none"}, "decay_mode = 'none' is unknown; known: independent, coupled"),
        ({"table": "mupp"}, "unknown parametrization 'mupp'"),
        ({"lr": 0}, "lr = 0, expected a number above 0"),
        ({"lr": float("nan")}, "lr = nan, expected a number above 0"),
        ({"weight_decay": -1}, "weight_decay = -1, expected a number 0 or more"),
        ({"eps": "small"}, "eps = 'small', expected a number 0 or more"),
        ({"base": 64}, "base is an int, expected a torch.nn.Module"),
        ({"roles": {"nothing": "gate"}}, "roles: no parameter is called the string 'nothing'"),
        ({"roles": {"*.A_log": "hidden"}}, "A_log is stated to be hidden, both sides of which grow"),
    ],
)
def test_what_is_given_wrongly_is_refused(changes, said):
    run = run_of("mup", "adamw", "heads", 0)
    given = {"base": plain_of(run, BASE), "table": "mup", "optimizer": "adamw", "lr": 0.1}
    assert said in refusal(mupcheck.parametrize, plain_of(run, WIDTH), **given | changes)


def test_weights_without_values_are_refused():
    run = run_of("mup", "adamw", "heads", 0)
    given = {"base": plain_of(run, BASE), "table": "mup", "optimizer": "adamw", "lr": 0.1}
    with torch.device("meta"):
        assert "embed.weight is on meta" in refusal(mupcheck.parametrize, PlainGDN(run), **given)
    quantised = plain_of(run, WIDTH)
    quantised.embed.weight = nn.Parameter(torch.zeros(32, WIDTH, dtype=torch.int8), requires_grad=False)
    assert "embed.weight is quantised (torch.int8)" in refusal(mupcheck.parametrize, quantised, **given)
    lazy = plain_of(run, WIDTH)
    lazy.more = nn.LazyLinear(3)
    assert "more.weight has no shape yet" in refusal(mupcheck.parametrize, lazy, **given)
    unclear = plain_of(run, WIDTH), plain_of(run, BASE)
    for each in unclear:
        each.scale = nn.Parameter(torch.ones(2))
    said = refusal(mupcheck.parametrize, unclear[0], **given | {"base": unclear[1]})
    assert said.startswith("scale: a vector of fixed length") and said.endswith("`mupcheck roles` prints all")


def test_a_norm_without_an_eps_takes_up_no_multiplier():
    run = run_of("gdn-mup", "adamw", "head-dim", 0)
    model, base = plain_of(run, WIDTH), plain_of(run, BASE)
    for each in (model, base):
        each.layers[0].mixer.o_norm.eps = None
    said = refusal(mupcheck.parametrize, model, base=base, table="gdn-mup", optimizer="adamw", lr=0.1)
    assert "the multiplier before this norm goes into its eps, and its module, a RMSNorm, has none of eps" in said


def test_frozen_weights_are_in_no_group_and_scaled_all_the_same():
    run = run_of("mup", "adamw", "heads", 0)
    model, before = plain_of(run, WIDTH), plain_of(run, WIDTH)
    model.layers[0].mixer.q_proj.weight.requires_grad_(False)
    groups = mupcheck.parametrize(model, base=plain_of(run, BASE), table="mup", optimizer="adamw", lr=0.1)
    held = {each for group in groups for each in group["params"]}
    assert {name for name, each in model.named_parameters() if each not in held} == {"layers.0.mixer.q_proj.weight"}
    weights = [each.layers[0].mixer.q_proj.weight for each in (model, before)]
    torch.testing.assert_close(weights[0] * 2**0.5, weights[1].detach())


def test_a_narrower_model_than_the_base_is_one_too():
    run = run_of("gdn-mup", "adamw", "head-dim", 0, BASE // 2)
    model, groups = parametrized(run)
    ours = losses_of_ours(run, TOKENS, 3)
    assert losses_of_plain(model, torch_optimizer(groups, run), TOKENS, 3) == pytest.approx(ours, rel=1e-9)


def test_sgd_is_told_of_sides_that_grow_apart():
    def build(d, inner):
        return nn.ModuleDict(
            {"tokens": nn.Embedding(9, d), "up": nn.Linear(d, inner), "head": nn.Linear(d, 9, bias=False)}
        )

    given = {"table": "mup", "lr": 0.1}
    groups = mupcheck.parametrize(build(64, 96), base=build(16, 48), optimizer="sgd", **given)
    assert [note.partition(";")[0] for note in groups.notes] == [
        "up.weight: its fan-in grows by 4 and its fan-out by 2"
    ]
    assert mupcheck.parametrize(build(64, 96), base=build(16, 48), optimizer="adamw", **given).notes == []
    assert mupcheck.parametrize(build(64, 64), base=build(16, 16), optimizer="sgd", **given).notes == []
