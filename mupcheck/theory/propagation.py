"""Exponents carried through the model: forward, backward, and through the first updates."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mupcheck.theory.exponents import BEHIND, PARAMETERS, Exponents

Place = tuple[str, int]  # site, block; -1 outside blocks
Sizes = dict[str, float]  # exponents at the sites of one block


# A sum whose fastest-growing term starts as this share of its square, over widths that span this factor (`_early`).
EARLY_SHARE, SPAN = 0.1, 8.0
# What norms and sigmoids keep at one size, whatever comes in.
BOUNDED = frozenset(("norm1", "norm2", "final_norm", "q_unit", "k_unit", "qk", "o_norm", "alpha", "beta"))


@dataclass(frozen=True)
class Corner:
    """One limit of what the widths in reach may show.

    Attributes:
        keys: 0 where q and k of a head point in random directions, so that q.k is d^-1/2 in head-dim mode; 1/2 where
            they share SiLU's mean and it is of order one. The crossover is near K ~ 70 (theory.md, section 4).
        values: 1/2 where a gate's gradient sums terms of random sign over V, 1 where they have one sign: the paper's
            rule against the strict one (theory.md, section 3). Likewise o_norm's gain over heads.
        dominant, dominant_back: whether a sum of branches, forward and backward, is its fastest-growing term, or that
            term still starts as a tenth of it.
        moved: whether what the updates did outweighs what was there at initialisation, or is small beside it.
        bounded: whether the change of what norms and sigmoids bound has met its bound, or still grows with width, at
            most as the effective update of a weight with one exponent off by one does.
        fitted: whether wider models, where their updates grow with width, have fitted the repeated batch by now, so
            that their later steps are smaller; the first step is not, and the mean over steps falls by half as much.
        own: 0 where tied logits are of random sign, 1/2 where the token's own leads them, aligned with its embedding.
        below: whether the widths lie below the base width, where a sum of branches is still its slowest-growing term.
    """

    keys: float = 0.0
    values: float = 0.5
    dominant: bool = True
    dominant_back: bool = True
    moved: bool = True
    bounded: bool = False
    fitted: bool = False
    own: float = 0.0
    below: bool = False


@dataclass(frozen=True)
class Model:
    """A table's exponents in one corner, and what the parts of the model do with them."""

    exponents: Exponents
    corner: Corner
    tied: bool
    n_layers: int

    def w(self, site: str) -> float:
        """Return the exponent of a weight at initialisation, as it acts."""
        return self.exponents.entries[site].size

    def through(self, site: str) -> float:
        """Return what a random weight adds to the exponent of what passes forward through it."""
        return self.w(site) + self.exponents.grown(PARAMETERS[site].fan_in) / 2

    def back(self, site: str) -> float:
        """Return what a random weight adds to the exponent of a gradient that passes back through it."""
        return self.w(site) + self.exponents.grown(PARAMETERS[site].fan_out) / 2 * bool(PARAMETERS[site].fan_in)

    def mult(self, site: str) -> float:
        """Return the exponent of a forward multiplier."""
        return self.exponents.multipliers[site]

    def rank_one(self, site: str) -> float:
        """Return what the spectral norm has over the rms, for a matrix of few directions."""
        of = PARAMETERS[site]
        if of.fan_out == "H" and not self.corner.dominant:
            # few heads: d x H signs have as many directions as heads, none of which leads
            return self.exponents.grown(of.fan_in) / 2
        return (self.exponents.grown(of.fan_in) + self.exponents.grown(of.fan_out)) / 2

    def effect(self, place: Place, step: float, acts_on: float) -> float:
        """Return what a weight's change of size `step` does to an input of size `acts_on`, multipliers included."""
        site = place[0]
        behind = self.mult(BEHIND[site]) if site in BEHIND else 0.0
        grown = self.exponents.grown(PARAMETERS[site].fan_in)
        return step + self.exponents.entries[site].multiplier + behind + acts_on + grown

    @property
    def qk(self) -> float:
        """Return the exponent of q.k, unit vectors over K."""
        return self.exponents.grown("K") * (self.corner.keys - 0.5)

    def branches(self, *terms: float) -> float:
        """Return the exponent of a sum of branches in the forward pass."""
        return self._sum(terms, dominant=self.corner.dominant)

    def branches_back(self, *terms: float) -> float:
        """Return the exponent of a sum of gradients that branches pass back."""
        return self._sum(terms, dominant=self.corner.dominant_back)

    def _sum(self, terms: tuple[float, ...], *, dominant: bool) -> float:
        if self.corner.below:
            return min(terms)
        return max(terms) if dominant else _early(terms)

    def moves(self, *terms: float) -> float:
        """Return the exponent of a sum of changes, whose sizes at the base width nothing ties together."""
        return max(terms) if self.corner.moved else min(terms)

    def by_now(self, place: Place, size: float, change: float) -> float:
        """Return the exponent of an activation after some updates; what is bounded keeps its size."""
        return max(size, change) if self.corner.moved and place[0] not in BOUNDED else size

    def bounded(self, change: float, size: float) -> float:
        """Return the exponent of the change of what cannot grow beyond its size, behind a norm or a sigmoid."""
        return min(change, size if self.corner.bounded else size + 1.0)


def _early(terms: tuple[float, ...]) -> float:
    """Return the slope over SPAN of a sum that begins with EARLY_SHARE of its fastest-growing term, in squares."""
    fastest, *others = sorted(terms, reverse=True)
    shares = [EARLY_SHARE, *[(1 - EARLY_SHARE) / len(others)] * len(others)]
    total = sum(share * SPAN ** (2 * (term - fastest)) for share, term in zip(shares, (fastest, *others), strict=True))
    return fastest + math.log(total) / (2 * math.log(SPAN))


def _placed(at: Mapping[str, float], layer: int) -> Iterator[tuple[Place, float]]:
    return (((site, layer), value) for site, value in at.items())


def _block(values: Mapping[Place, float], layer: int) -> Sizes:
    return {site: value for (site, at), value in values.items() if at == layer}


def forward(model: Model) -> Iterator[tuple[Place, float]]:
    """Yield the exponent of every activation at initialisation; "<x>" is the residual stream that enters a block."""
    x = model.w("embedding")
    yield ("embedding", -1), x
    for layer in range(model.n_layers):
        a: Sizes = {"<x>": x, "norm1": model.w("norm1_gain")}
        for name in "qkv":
            a[f"{name}_pre"] = a["norm1"] + model.through(f"{name}_proj")
            a[f"{name}_conv"] = a[f"{name}_pre"] + model.through(f"{name}_conv1d")
        a["q_unit"] = a["k_unit"] = -model.exponents.grown("K") / 2
        a["z_alpha"] = a["norm1"] + model.through("a_proj")
        a["z_beta"] = a["norm1"] + model.through("b_proj")
        a["alpha"] = a["beta"] = 0.0  # both lie in (0, 1)
        a["qk"] = model.qk
        a["state"] = a["v_conv"] + a["k_unit"]
        a["o_raw"] = a["v_conv"] + a["qk"] + model.mult("o_raw")
        a["o_norm"] = model.w("o_norm_gain")
        a["gate"] = a["norm1"] + model.through("g_proj")
        a["<gated>"] = a["o_norm"] + a["gate"]
        a["mixer_out"] = a["<gated>"] + model.through("o_proj") + model.mult("mixer_out")
        a["<middle>"] = model.branches(x, a["mixer_out"])
        a["norm2"] = model.w("norm2_gain")
        a["<mlp gate>"] = a["norm2"] + model.through("gate_proj")
        a["<mlp up>"] = a["norm2"] + model.through("up_proj")
        a["mlp_hidden"] = a["<mlp gate>"] + a["<mlp up>"]
        a["mlp_out"] = a["mlp_hidden"] + model.through("down_proj")
        x = a["residual"] = model.branches(a["<middle>"], a["mlp_out"])
        yield from _placed(a, layer)
    yield ("<x>", -1), x
    yield ("final_norm", -1), model.w("final_norm_gain")
    readout = model.w("embedding") + 0.5 + model.corner.own if model.tied else model.through("readout")
    yield ("logits", -1), model.w("final_norm_gain") + readout + model.mult("logits")


def backward(model: Model, size: Mapping[Place, float]) -> Iterator[tuple[Place, float]]:
    """Yield the exponent of the loss gradient of every activation at initialisation."""
    yield ("logits", -1), 0.0
    read = model.mult("logits")
    yield ("<read>", -1), read
    at_end = read + model.w("embedding" if model.tied else "readout")
    yield ("final_norm", -1), at_end
    x = at_end + model.w("final_norm_gain") - size["<x>", -1]
    for layer in reversed(range(model.n_layers)):
        a = _block(size, layer)
        g: Sizes = {"residual": x, "mlp_out": x, "mlp_hidden": x + model.back("down_proj")}
        g["<mlp gate>"] = g["mlp_hidden"] + a["<mlp up>"]
        g["<mlp up>"] = g["mlp_hidden"] + a["<mlp gate>"]
        g["norm2"] = model.branches_back(
            g["<mlp gate>"] + model.back("gate_proj"), g["<mlp up>"] + model.back("up_proj")
        )
        x = model.branches_back(x, g["norm2"] + model.w("norm2_gain") - a["<middle>"])

        g["mixer_out"] = x
        g["<mixed>"] = x + model.mult("mixer_out")
        gated = g["<mixed>"] + model.back("o_proj")
        g["gate"], g["o_norm"] = gated + a["o_norm"], gated + a["gate"]
        g["o_raw"] = g["o_norm"] + model.w("o_norm_gain") - a["o_raw"]
        before = g["o_raw"] + model.mult("o_raw")
        g["v_conv"] = before + a["qk"]
        # S^T dL/do: a sum over V
        g["q_unit"] = g["k_unit"] = before + a["state"] + model.exponents.grown("K") / 2
        for name in "qk":
            g[f"{name}_conv"] = g[f"{name}_unit"] + a[f"{name}_unit"] - a[f"{name}_conv"]
        for name in "qkv":
            g[f"{name}_pre"] = g[f"{name}_conv"] + model.w(f"{name}_conv1d")
        g["beta"] = g["v_conv"] + a["v_conv"] + model.exponents.grown("K") * model.corner.values
        for name in ("alpha", "beta"):
            # a gate that saturates passes less
            closed = max(a[f"z_{name}"], 0.0) if model.corner.dominant_back else 0.0
            g[f"z_{name}"] = g["beta"] - closed
        makers = ("q_proj", "k_proj", "v_proj", "g_proj", "a_proj", "b_proj")
        passed = dict.fromkeys(("z_alpha", "z_beta"), model.exponents.grown("K") * (model.corner.values - 0.5))
        # few heads: that their terms align shows in the gates' own gradients, not beside what q, k and v pass back
        g["norm1"] = model.branches_back(
            *(g[at] - passed.get(at, 0.0) + model.back(site) for site in makers for at in [PARAMETERS[site].makes])
        )
        x = model.branches_back(x, g["norm1"] + model.w("norm1_gain") - a["<x>"])
        yield from _placed(g, layer)
    yield ("embedding", -1), x


def weight_gradients(
    model: Model, size: Mapping[Place, float], grad: Mapping[Place, float]
) -> Iterator[tuple[Place, float]]:
    """Yield the exponent of every weight's gradient at initialisation: what it acts on times what flows back."""
    for site, of in PARAMETERS.items():
        multiplier = model.exponents.entries[site].multiplier
        for layer in range(model.n_layers) if of.in_block else (-1,):
            value = grad[of.makes, layer] + size.get((of.acts_on, layer), 0.0)
            if site == "o_norm_gain":
                # one gain for all heads
                value += model.exponents.grown("H") * model.corner.values
            if site == "embedding" and model.tied:
                value = model.moves(value, grad["<read>", -1] + size["final_norm", -1])
            if not (site == "readout" and model.tied):
                yield (site, layer), value + multiplier


def updates(
    model: Model, size: Mapping[Place, float], step: Mapping[Place, float]
) -> tuple[dict[Place, float], dict[Place, float]]:
    """Return the exponents of the change of every activation, and of every weight's effective update.

    Args:
        size: of activations at initialisation.
        step: of the change of every weight.
    """
    change: dict[Place, float] = {}
    effective: dict[Place, float] = {}

    def act(site: str, layer: int) -> float:
        """Record and return a weight's effective update, on the input that it has by now."""
        place = PARAMETERS[site].acts_on, layer
        by_now = model.by_now(place, size[place], change[place]) if place in size else 0.0
        value = model.effect((site, layer), step[site, layer], by_now)
        effective[site, layer] = value
        return value

    x = change["embedding", -1] = act("embedding", -1)
    for layer in range(model.n_layers):
        a = _block(size, layer)

        def put(site: str, *terms: float, bounded: bool = False, layer: int = layer, a: Sizes = a) -> float:
            value = model.moves(*terms)
            change[site, layer] = model.bounded(value, a[site]) if bounded else value
            return change[site, layer]

        change["<x>", layer] = x
        norm1 = put("norm1", x - a["<x>"] + a["norm1"], act("norm1_gain", layer), bounded=True)
        for name in "qkv":
            pre = put(f"{name}_pre", act(f"{name}_proj", layer), norm1 + model.through(f"{name}_proj"))
            put(f"{name}_conv", act(f"{name}_conv1d", layer), pre + model.through(f"{name}_conv1d"))
        for name in "qk":
            turned = change[f"{name}_conv", layer] - a[f"{name}_conv"] + a[f"{name}_unit"]
            put(f"{name}_unit", turned, bounded=True)
        scalars = [act(site, layer) for site in ("A_log", "dt_bias")]
        z_alpha = put("z_alpha", act("a_proj", layer), norm1 + model.through("a_proj"))
        z_beta = put("z_beta", act("b_proj", layer), norm1 + model.through("b_proj"))
        alpha, beta = put("alpha", z_alpha, *scalars, bounded=True), put("beta", z_beta, bounded=True)
        if not model.corner.bounded:
            # it falls as exp(-z), and starts far from its bound where it is next to 0 or 1
            change["alpha", layer] = model.moves(z_alpha, *scalars)
        # a sum over K, as q.k itself
        over_keys = model.exponents.grown("K") * (0.5 + model.corner.keys) + a["q_unit"]
        qk = put("qk", *(change[f"{name}_unit", layer] + over_keys for name in "qk"), bounded=True)
        v = change["v_conv", layer] - a["v_conv"]
        put(
            "state",
            a["state"] + v,
            a["state"] + change["k_unit", layer] - a["k_unit"],
            *(a["state"] + g for g in (alpha, beta)),
        )
        o_raw = put("o_raw", *(a["o_raw"] + relative for relative in (v, qk - a["qk"], alpha, beta)))
        o_norm = put("o_norm", o_raw - a["o_raw"] + a["o_norm"], act("o_norm_gain", layer), bounded=True)
        gate = put("gate", act("g_proj", layer), norm1 + model.through("g_proj"))
        gated = put("<gated>", o_norm + a["gate"], gate + a["o_norm"])
        mixed = gated + model.through("o_proj") + model.mult("mixer_out")
        x = put("<middle>", x, put("mixer_out", act("o_proj", layer), mixed))
        norm2 = put("norm2", x - a["<middle>"] + a["norm2"], act("norm2_gain", layer), bounded=True)
        mlp_gate = put("<mlp gate>", act("gate_proj", layer), norm2 + model.through("gate_proj"))
        mlp_up = put("<mlp up>", act("up_proj", layer), norm2 + model.through("up_proj"))
        hidden = put("mlp_hidden", mlp_gate + a["<mlp up>"], mlp_up + a["<mlp gate>"])
        x = put("residual", x, put("mlp_out", act("down_proj", layer), hidden + model.through("down_proj")))

    change["<x>", -1] = x
    a = _block(size, -1)
    turned = model.moves(x - a["<x>"] + a["final_norm"], act("final_norm_gain", -1))
    change["final_norm", -1] = model.bounded(turned, a["final_norm"])
    if model.tied:
        rows = effective["embedding", -1] + 1 + a["final_norm"] + model.mult("logits")
        through = model.w("embedding") + 0.5 + model.mult("logits")
    else:
        rows, through = act("readout", -1), model.through("readout") + model.mult("logits")
    change["logits", -1] = model.moves(rows, change["final_norm", -1] + through)
    return change, effective
