"""The model of theory.md, section 1, by hand: one replica, float64, step by step."""

import torch
import torch.nn.functional as F

from mupcheck.measuring.probes import Probe
from mupcheck.model.build import build_model, named_weights, parameter_groups
from mupcheck.training.optim import make_optimizer

# contract.md, section "Files"
ENDS = {"embedding", "final_norm", "logits"}
GATED = set(
    [
        "q_pre",
        "k_pre",
        "v_pre",
        "q_conv",
        "k_conv",
        "v_conv",
        "q_unit",
        "k_unit",
        "z_alpha",
        "z_beta",
        "beta",
        "o_raw",
        "o_norm",
        "gate",
    ]
)
UNREAD = {"alpha", "qk", "state"}  # nothing downstream reads these as such, so the loss has no gradient there
INSIDE = GATED | {"residual", "norm1", "norm2", "mixer_out", "mlp_hidden", "mlp_out"}
MATRICES = set(
    ["q_proj", "k_proj", "v_proj", "g_proj", "a_proj", "b_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
)
CONVS = {"q_conv1d", "k_conv1d", "v_conv1d"}
VECTORS = {"A_log", "dt_bias", "o_norm_gain", "norm1_gain", "norm2_gain"}
LAYER_WEIGHTS = MATRICES | CONVS | VECTORS


def lr_of(optimizer):
    return 2.0**-6 if optimizer == "adamw" else 2.0**-3


# --- the model by hand, from theory.md section 1: one replica, float64, step by step ----------------------------------


def by_hand(weights, run, tokens):
    """Return every site's value under its (layer, site), every weight's input likewise, and the loss.

    weights: (layer, name) -> value of one replica; tokens [B, T + 1].
    """
    mode, (heads, k_dim, v_dim) = run.mode, run.heads
    inputs, at = {}, {}

    def site(layer, name, value):
        if value.requires_grad:
            value.retain_grad()
        at[layer, name] = value
        return value

    def apply(layer, name, x):
        inputs[layer, name] = x
        return x @ weights[layer, name]

    def norm(layer, name, x):
        return x / (x.square().mean(-1, keepdim=True) + run.norm_eps).sqrt() * weights[layer, f"{name}_gain"]

    def factor(name):
        return run.m ** run.table.multiplier(name, mode=mode) * (run.logit_scale if name == "logits" else 1)

    x = site(-1, "embedding", weights[-1, "embedding"][tokens[:, :-1]])  # [B, T, D]
    batch, time = x.shape[:2]
    for i in range(run.n_layers):
        normed = site(i, "norm1", norm(i, "norm1", x))
        read = {}
        for name, dim in (("q", k_dim), ("k", k_dim), ("v", v_dim)):
            pre = site(i, f"{name}_pre", apply(i, f"{name}_proj", normed))
            inputs[i, f"{name}_conv1d"] = pre
            conv = site(i, f"{name}_conv", F.silu(convolved(pre, weights[i, f"{name}_conv1d"])))
            read[name] = conv.view(batch, time, heads, dim)
        q = site(i, "q_unit", read["q"] / read["q"].norm(dim=-1, keepdim=True))
        k = site(i, "k_unit", read["k"] / read["k"].norm(dim=-1, keepdim=True))
        z_alpha = site(i, "z_alpha", apply(i, "a_proj", normed))
        z_beta = site(i, "z_beta", apply(i, "b_proj", normed))
        alpha = site(i, "alpha", (-weights[i, "A_log"].exp() * F.softplus(z_alpha + weights[i, "dt_bias"])).exp())
        beta = site(i, "beta", z_beta.sigmoid())
        site(i, "qk", (q * k).sum(-1))
        state = torch.zeros(batch, heads, v_dim, k_dim, dtype=torch.float64)
        outs = []
        for t in range(time):
            a, b = alpha[:, t, :, None, None], beta[:, t, :, None, None]
            kt, vt = k[:, t, :, None, :], read["v"][:, t, :, :, None]
            state = a * (state - b * (state @ kt.mT) @ kt) + b * vt @ kt  # (paper eq. 3.1)
            outs.append((state @ q[:, t, :, :, None])[..., 0])
        site(i, "state", state)
        o = site(i, "o_raw", torch.stack(outs, 1) * factor("o_raw"))
        o = site(i, "o_norm", norm(i, "o_norm", o))
        gate = site(i, "gate", F.silu(apply(i, "g_proj", normed)))
        y = apply(i, "o_proj", o.reshape(batch, time, heads * v_dim) * gate)
        x = x + site(i, "mixer_out", y * factor("mixer_out"))
        normed = site(i, "norm2", norm(i, "norm2", x))
        hidden = F.silu(apply(i, "gate_proj", normed)) * apply(i, "up_proj", normed)
        x = x + site(i, "mlp_out", apply(i, "down_proj", site(i, "mlp_hidden", hidden)))
        x = site(i, "residual", x)
    x = site(-1, "final_norm", norm(-1, "final_norm", x))
    readout = weights[-1, "embedding"].T if run.tied else weights[-1, "readout"]
    inputs[-1, "readout"] = x
    logits = site(-1, "logits", x @ readout * factor("logits"))
    return at, inputs, F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def convolved(x, taps):
    """Return y_t = sum_j taps_j x_(t - 3 + j) over time; x [B, T, C], taps [4, C]."""
    padded = F.pad(x, (0, 0, len(taps) - 1, 0))
    return sum(padded[:, j : j + x.shape[1]] * tap for j, tap in enumerate(taps))


def weights_of(model, replica):
    return {(layer, site): w.weight[replica].detach().clone() for site, layer, w in named_weights(model)}


def rms(x):
    return float(x.detach().square().mean().sqrt())


def watched(runs, corpus, steps, *, full=True):
    """Train on one batch with a probe; return the rows of all steps and the weights [step][replica]."""
    from mupcheck.training.data.batches import train_batch

    batches = [train_batch(corpus, seed=r.seed, step=0, batch_size=r.batch_size, seq_len=r.seq_len) for r in runs]
    tokens = torch.stack([torch.from_numpy(batch) for batch in batches])
    model = build_model(runs)
    optimizer = make_optimizer(parameter_groups(model, runs), runs)
    probe, scale = Probe(model, full=full), torch.ones(len(runs), dtype=torch.float64)
    rows, weights = [], []
    for step in range(steps + 1):
        weights.append([weights_of(model, replica) for replica in range(len(runs))])
        probe.start()
        model.zero_grad(set_to_none=True)
        model.loss(tokens).sum().backward()
        probe.finish(optimizer, scale)
        rows += probe.rows(step)
        optimizer.step(scale, optimizer.gradient_norm(), torch.ones(len(runs), dtype=torch.bool))
    return rows, weights, tokens


def values(rows, step, kind, stat="rms"):
    """Return (layer, site) -> [R] of one kind at one step; none is there twice."""
    found = [row for row in rows if (row.step, row.kind, row.stat) == (step, kind, stat)]
    assert len({(row.layer, row.site) for row in found}) == len(found)
    return {(row.layer, row.site): row.values for row in found}
