"""Faults of the training code, each planted by a patch from outside: what a line of it that is wrong may do."""
# ruff: noqa: E501

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mupcheck.proof.faults import EVERYWHERE, Fault, Where
from mupcheck.proof.patches import Patch, forward, fresh, kernels, optimizers, probes, starts, updates
from mupcheck.theory.parametrization import Role

AD, AH, SD, SH = ("adamw", "head-dim"), ("adamw", "heads"), ("sgd", "head-dim"), ("sgd", "heads")
Q, K, V, OUT = (f"{name}_proj" for name in "qkvo")
CONVS, GATES, SCALARS = ("q_conv1d", "k_conv1d", "v_conv1d"), ("a_proj", "b_proj"), ("A_log", "dt_bias")
HIDDEN = (Q, K, V, OUT, "g_proj", "gate_proj", "up_proj", "down_proj")
GAINS = ("norm1_gain", "norm2_gain", "final_norm_gain", "o_norm_gain")
NORMS = ("norm1", "norm2", "final_norm")
CONSTANT = "the same constant at every width, as another setting would have it"
SAME_SIZE = "another function of the same size"
SAME_LR = "the same as another lr at every width, and the gradient is what the optimizer was given"
MOVES = ("activation_update", "effective_update", "weight_update")
# what finds that the optimizer applied something else than was declared
APPLIED = ("applied", "realised")
DECAYED = ("applied", "decayed", "decay")
FACTORS = (*APPLIED, "initial size", "not followed")
SIZES = ("initial size", "norm size", "not as implied")


def code(
    kind: str,
    name: str,
    setting: tuple[str, str],
    patch: Patch,
    at: Where = EVERYWHERE,
    *,
    named: tuple[str, ...] = (),
    unseen: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Fault:
    """Return a fault of the training code."""
    return Fault(name, *setting, kind, at, named, patch=patch, settings=settings or {}, unseen=unseen)


_in = partial
_scaled, _part = updates.scaled, updates.part_scaled
_bent, _as = forward.bent_site, forward.bent_weight
_FIRST, _QUARTER = slice(0, 1), slice(0, 4)
_STATE_PART = slice(-1, None)
_DECAY = {"weight_decay": 1.0, "decay_mode": "independent"}
# so small an init that the multiplier on o is what keeps o above o_norm's eps
_SMALL_O = {"projection_std": 0.004, "conv_std": 0.6}
_LINEAR = {"schedule": "linear", "steps": 6}


def _times(factor: float = 1.0, exponent: float = 0.0) -> Callable[..., Any]:
    return partial(forward.times, factor=factor, exponent=exponent)


# fmt: off
_UPDATE = (
    *(code("update", "sign of the update flipped", setting, _in(_scaled, factor=-1), named=("applied", "loss")) for setting in (AD, AH, SD, SH)),
    code("update", "update halved everywhere", AD, _in(_scaled, factor=0.5), named=APPLIED),
    code("update", "update halved everywhere", SH, _in(_scaled, factor=0.5), named=APPLIED),
    code("update", "update x3 of k_proj", AD, _in(_scaled, factor=3), Where((K,))),
    code("update", "update x1.1 of o_proj", AH, _in(_scaled, factor=1.1), Where((OUT,))),
    code("update", "update halved in layer 1", AH, _in(_scaled, factor=0.5), Where(layer=1)),
    code("update", "update halved in layer 1", SD, _in(_scaled, factor=0.5), Where(layer=1)),
    code("update", "update halved at the middle width", AD, _in(_scaled, factor=0.5), Where(width=64)),
    code("update", "update x2 at the largest width", SH, _in(_scaled, factor=2), Where(width=128)),
    code("update", "down_proj of layer 0 at one width", SD, _in(_scaled, factor=0.5), Where(("down_proj",), layer=0, width=64)),
    code("update", "first columns of q_proj frozen", AD, _in(_part, axis=-1, part=_QUARTER, factor=0), Where((Q,))),
    code("update", "one column of up_proj frozen", SH, _in(_part, axis=-1, part=_FIRST, factor=0), Where(("up_proj",))),
    code("update", "first rows of v_proj frozen", AH, _in(_part, axis=1, part=_QUARTER, factor=0), Where((V,))),
    code("update", "one head of k_proj frozen", AD, _in(updates.head_scaled, head=1, factor=0), Where((K,))),
    code("update", "one head of v_proj moves twice as far", SD, _in(updates.head_scaled, head=0, factor=2), Where((V,))),
    code("update", "gate scalars never move", AD, _in(_scaled, factor=0), Where(SCALARS)),
    code("update", "o_norm's gain never moves", SH, _in(_scaled, factor=0), Where(("o_norm_gain",))),
    code("update", "embedding never moves", AH, _in(_scaled, factor=0), Where(("embedding",))),
    code("update", "b_proj never moves at one width", SD, _in(_scaled, factor=0), Where(("b_proj",), width=128)),
    code("update", "hidden updates carry m^-1/2 more", AD, _in(updates.by_width, exponent=-0.5), Where(HIDDEN)),
    code("update", "gate updates carry m more", SH, _in(updates.by_width, exponent=1.0), Where(GATES)),
    code("update", "every update taken twice", AD, updates.twice, named=APPLIED),
    code("update", "every update taken twice", SD, updates.twice, named=APPLIED),
    code("update", "updates of columns mixed up", AH, _in(updates.mixed_up, axis=-1), Where((OUT,))),
    code("update", "updates of rows mixed up", SD, _in(updates.mixed_up, axis=1), Where(("gate_proj",))),
    code("update", "readout halved from the second step on", AD, _in(_scaled, factor=0.5), Where(("readout",), step=2)),
    code("update", "everything stops after the first step", SH, _in(_scaled, factor=0), Where(step=2), named=("applied", "nothing trained", "never moves")),
)
_OPTIMIZER = (
    code("optimizer", "Adam without bias correction", AD, _in(optimizers.adam, corrected=False), named=("applied",)),
    code("optimizer", "Adam's correction a step ahead", AH, _in(optimizers.adam, later=1), named=("applied",)),
    code("optimizer", "Adam's betas exchanged", AD, _in(optimizers.adam, betas=(0.95, 0.9)), named=("applied",)),
    code("optimizer", "Adam's betas 0.5 and 0.5", AH, _in(optimizers.adam, betas=(0.5, 0.5)), named=("applied",)),
    code("optimizer", "Adam's eps inside the root", AD, _in(optimizers.adam, eps_in_root=True), named=("applied", "adam eps")),
    code("optimizer", "Adam's eps 1e-3 in place of 1e-8", AH, _in(optimizers.adam, eps=1e5), named=("applied", "adam eps")),
    code("optimizer", "Adam's v of the next column", AD, _in(optimizers.adam, roll=1), named=("applied",)),
    code("optimizer", "one v for each weight", AH, _in(optimizers.adam, one_size=True), named=("applied",)),
    code("optimizer", "Adam's mean shared by q_proj and k_proj", AD, _in(optimizers.shared_state, sites=(Q, K)), Where((Q, K)), named=("applied",)),
    code("optimizer", "AMSGrad in place of Adam", AD, _in(optimizers.adam, largest=True), named=("applied",)),
    code("optimizer", "momentum not Nesterov", SD, _in(optimizers.sgd, nesterov=False), named=("applied",)),
    code("optimizer", "momentum dampened", SH, _in(optimizers.sgd, dampened=True), named=("applied",)),
    code("optimizer", "momentum forgotten", SD, _in(optimizers.sgd, forgets=True), named=("applied",)),
    code("optimizer", "one velocity for all seeds", SH, _in(optimizers.sgd, shared=True), named=("applied",)),
    code("optimizer", "gradient clipped unseen", SD, _in(updates.clipped, norm=1e-3), named=("applied",)),
    code("optimizer", "gradient of each weight normalised", SH, updates.normalised, named=("applied",)),
    code("optimizer", "gradient of the step before", SD, updates.late, named=("applied", "nothing trained")),
    code("optimizer", "gradient underflows in float16", SH, updates.underflown, named=("applied",)),
    code("optimizer", "gradients never set to zero", SD, updates.piled_up, unseen="the sum is what the optimizer was given, and points the same way on one repeated batch"),
    code("optimizer", "gradients summed and not divided", SD, _in(updates.loss_scaled, factor=4), unseen=SAME_LR),
    code("optimizer", "gradients summed and not divided", AD, _in(updates.loss_scaled, factor=4), unseen=SAME_LR),
)
_DECAYS = (
    code("decay", "decay on gains and scalars", AD, _in(updates.decayed, all_roles=True), Where((*GAINS, *SCALARS, *CONVS)), settings=_DECAY),
    code("decay", "decay missing", AH, _in(updates.decayed, factor=-1), named=DECAYED, settings=_DECAY),
    code("decay", "no decay is set", AD, _in(updates.decay_set, coupled=False), named=(*DECAYED, "realised"), settings=_DECAY),
    code("decay", "coupled in place of independent", AH, _in(updates.decay_set, coupled=True), named=(*DECAYED, "realised"), settings=_DECAY),
    code("decay", "decay of the wrong sign", AD, _in(updates.decayed, factor=-2), named=DECAYED, settings=_DECAY),
    code("decay", "decay not times the lr", AH, _in(updates.decayed, by_lr=False), named=DECAYED, settings=_DECAY),
    code("decay", "decay in Adam's gradient", AD, updates.decay_in_gradient, named=DECAYED, settings=_DECAY),
    code("decay", "decay twice in layer 1", AD, updates.decayed, Where(layer=1), settings=_DECAY),
    code("decay", "decay missing under SGD", SD, _in(updates.decay_set, coupled=False), named=(*DECAYED, "realised"), settings=_DECAY),
    code("decay", "decay where none is declared", AD, _in(updates.scaled_towards_zero, share=1e-3), named=DECAYED),
)
_SCHEDULE = (
    code("schedule", "scheduler sets one lr before step 2", AD, optimizers.overwritten_lr, Where(step=2), named=APPLIED),
    code("schedule", "scheduler sets one lr before step 2", SH, optimizers.overwritten_lr, Where(step=2), named=APPLIED),
    code("schedule", "scheduler sets the lr of layer 1 to half", AH, _in(optimizers.overwritten_lr, factor=0.5), Where(layer=1, step=3)),
    code("schedule", "lone warm-up of the readout", AD, _in(updates.warmed_up, steps=4), Where(("readout",))),
    code("schedule", "lone warm-up of the gates", SD, _in(updates.warmed_up, steps=4), Where(GATES)),
    code("schedule", "undeclared warm-up", AD, _in(optimizers.undeclared_warmup, steps=4), named=APPLIED),
    code("schedule", "undeclared cosine", SD, _in(optimizers.undeclared_decay, steps=8), named=APPLIED),
    code("schedule", "schedule a step late", AH, optimizers.schedule_late, settings=_LINEAR, named=("applied",)),
    code("schedule", "schedule not applied", SH, optimizers.schedule_ignored, settings=_LINEAR, named=("applied",)),
    code("schedule", "lrs of q_proj and a_proj exchanged", SD, _in(optimizers.exchanged_lr, sites=(Q, "a_proj")), Where((Q, "a_proj"))),
    code("schedule", "lrs of embedding and readout's neighbours exchanged", AD, _in(optimizers.exchanged_lr, sites=("up_proj", "norm1_gain")), Where(("up_proj", "norm1_gain"))),
)
_FACTORS = (
    code("factors", "lr for half the base width", AD, _in(starts.other_factors, change=starts.lr_of_half_base), named=APPLIED),
    code("factors", "lr for half the base width", SH, _in(starts.other_factors, change=starts.lr_of_half_base), named=APPLIED),
    code("factors", "init for half the base width", AH, _in(starts.other_factors, change=starts.init_of_half_base), named=("initial size",)),
    code("factors", "m is twice what it is", AD, _in(starts.other_m, m=starts.half_base), named=(*APPLIED, "initial size")),
    code("factors", "m from the head dim", AH, _in(starts.other_m, m=starts.of_head_dim), named=FACTORS),
    code("factors", "m from the number of heads", SD, _in(starts.other_m, m=starts.of_heads), named=FACTORS),
    code("factors", "m no more than 2", AD, _in(starts.other_m, m=starts.capped), Where(width=128)),
    code("factors", "m from the number of parameters", SH, _in(starts.other_m, m=starts.of_parameters), named=FACTORS),
    code("factors", "rows of the other optimizer", AD, _in(starts.other_factors, change=starts.of_other_optimizer), named=APPLIED),
    code("factors", "lr of gates not scaled", SD, _in(starts.other_factors, change=starts.lr_of_one, roles=(Role.GATE,)), Where(GATES), named=APPLIED),
    code("factors", "multiplier on logits dropped", AD, _in(forward.multipliers_set, exponent=0.0), Where(("logits",)), named=("multiplier logits",)),
    code("factors", "multiplier on logits twice", SD, _in(forward.multipliers_set, exponent=2.0), Where(("logits",)), named=("multiplier logits",)),
    code("factors", "multiplier on o dropped", AD, _in(forward.multipliers_set, exponent=0.0), Where(("o_raw", "o_norm")), named=("multiplier o_raw", "o_norm eps", "not as implied"), settings=_SMALL_O),
)
_INIT = (
    code("init", "std x2 in layer 1", AD, _in(starts.init_scaled, factor=2), Where(layer=1)),
    code("init", "std x2 of k_proj at the middle width", SH, _in(starts.init_scaled, factor=2), Where((K,), width=64)),
    code("init", "std x2 at the middle width", AH, _in(starts.init_scaled, factor=2), Where(width=64)),
    code("init", "std x1.2 of the embedding", SD, _in(starts.init_scaled, factor=1.2), Where(("embedding",))),
    code("init", "std x10 of the convolutions", AD, _in(starts.init_scaled, factor=10), Where(CONVS)),
    code("init", "std x4 of half of g_proj", AH, _in(starts.init_scaled, factor=4, part=0.5), Where(("g_proj",))),
    code("init", "bound taken for a std", SD, _in(starts.drawn_from, draw=starts.narrow), named=("initial size",)),
    code("init", "truncated normal, not rescaled", AD, _in(starts.drawn_from, draw=starts.truncated), named=("initial size",)),
    code("init", "o_proj starts at zero", AH, _in(starts.drawn_from, draw=starts.zero), Where((OUT,))),
    code("init", "up_proj starts with one row", AD, _in(starts.after_initialise, edit=starts.equal_rows), Where(("up_proj",))),
    code("init", "v_proj starts with rank 1", SH, _in(starts.drawn_from, draw=starts.rank_one), Where((V,))),
    code("init", "down_proj starts positive", AH, _in(starts.drawn_from, draw=starts.positive), Where(("down_proj",)), unseen="of the right rms, and what it multiplies has either sign"),
    code("init", "gate scalars drawn afresh at each width", AD, starts.gates_by_width, named=("gate scalars",)),
    code("init", "uniform in place of normal", AD, _in(starts.drawn_from, draw=starts.uniform), unseen="of the same std"),
    code("init", "one size with either sign in place of normal", SH, _in(starts.drawn_from, draw=starts.coins), named=("copied seeds",)),
    code("init", "orthogonal in place of normal", AH, _in(starts.drawn_from, draw=starts.orthogonal), unseen="of the same std"),
    code("init", "layers drawn alike", SD, starts.alike_layers, unseen="each layer by itself is right"),
    code("init", "initial weights rounded to bfloat16", AD, _in(starts.after_initialise, edit=starts.to_bfloat16), unseen="by less than the draws scatter"),
)
_SEEDS = (
    code("seeds", "seeds do not reach the init", AD, starts.one_init, named=("copied seeds", "seed")),
    code("seeds", "seeds do not reach the batches", SH, starts.one_batch, unseen="the initial values of the seeds differ, and so do all sizes"),
    code("seeds", "seeds reach nothing", AH, starts.one_seed, named=("copied seeds",)),
    code("seeds", "gradient of another seed", AD, updates.of_another_seed, named=("applied", "loss")),
    code("seeds", "gradient of another seed", SD, updates.of_another_seed, named=("applied", "loss")),
    code("seeds", "gradients averaged over seeds", AH, updates.averaged_over_seeds, named=("applied",)),
    code("seeds", "weights averaged over seeds", SH, updates.one_model, named=("applied", "copied seeds", "loss")),
    code("seeds", "one seed does not train", AD, _in(_part, axis=0, part=_STATE_PART, factor=0), named=("applied", "never moves")),
    code("seeds", "tokens of another seed", AD, forward.shuffled_targets, unseen="the sizes are those of a model that learns something else"),
)
_NORM = (
    code("norms", "eps of every norm 1e-2", AD, _in(forward.other_norm, norm=partial(forward.with_eps, eps=1e-2)), named=("norm size", "o_norm eps")),
    code("norms", "eps of o_norm 1e-2", SH, _in(forward.other_norm, norm=partial(forward.with_eps, eps=1e-2)), Where(("o_norm",))),
    code("norms", "no o_norm", AH, _in(forward.other_norm, norm=forward.none), Where(("o_norm",))),
    code("norms", "no norm of the residual stream", AD, _in(forward.other_norm, norm=forward.none), Where(NORMS)),
    code("norms", "o_norm by the mean of |o|", SD, _in(forward.other_norm, norm=forward.by_mean_abs), Where(("o_norm",))),
    code("norms", "norms by length, not rms", AD, _in(forward.other_norm, norm=forward.by_length), Where(NORMS)),
    code("norms", "o_norm over time", AH, _in(forward.other_norm, norm=forward.over_time), Where(("o_norm",))),
    code("norms", "norms over all tokens together", SD, _in(forward.other_norm, norm=forward.over_all), Where(NORMS), unseen="the mean square over all tokens is still 1"),
    code("norms", "q and k not normed", AD, _in(forward.other_unit_norm, norm=forward.not_normed), Where(("q_unit", "k_unit"))),
    code("norms", "q and k of rms 1, not of length 1", SH, _in(forward.other_unit_norm, norm=forward.rms_normed), Where(("q_unit", "k_unit"))),
    code("norms", "q and k normed over all heads", AH, _in(forward.other_unit_norm, norm=forward.normed_over_heads), Where(("q_unit", "k_unit"))),
    code("norms", "LayerNorm in place of RMSNorm", AD, _in(forward.other_norm, norm=forward.centred), Where(NORMS), unseen=SAME_SIZE),
    code("norms", "gain squared", SD, _in(forward.other_norm, norm=forward.gain_squared), unseen=f"gains start at 1: {SAME_SIZE}"),
)
_FORWARD = (
    code("forward", "dt_bias ignored", AD, _in(_as, bend=forward.nothing), Where(("dt_bias",))),
    code("forward", "dt_bias out of the graph", SH, _in(_as, bend=forward.stale), Where(("dt_bias",))),
    code("forward", "convolution missing", AH, _in(forward.other_conv, act=forward.beside_itself), Where(CONVS)),
    code("forward", "logits x2", AD, _in(_bent, bend=_times(2)), Where(("logits",))),
    code("forward", "mixer's output by 1/sqrt(m) more", AH, _in(_bent, bend=_times(exponent=-0.5)), Where(("mixer_out",))),
    code("forward", "embedding times sqrt(m)", SD, _in(_bent, bend=_times(exponent=0.5)), Where(("embedding",))),
    code("forward", "MLP's hidden layer by m^1/2", AD, _in(_bent, bend=_times(exponent=0.5)), Where(("mlp_hidden",))),
    code("forward", "half of the MLP's output missing at one width", SH, _in(_bent, bend=forward.first_half_only), Where(("mlp_out",), width=64)),
    code("forward", "logits x4 at the middle width", SD, _in(_bent, bend=_times(4)), Where(("logits",), width=64)),
    code("forward", "residual stream x2 behind layer 0 at one width", AD, _in(_bent, bend=_times(2)), Where(("residual",), layer=0, width=64)),
    code("forward", "residual stream halved", AD, _in(_bent, bend=_times(0.5)), Where(("residual",)), unseen=CONSTANT),
    code("forward", "embedding x10", SH, _in(_bent, bend=_times(10)), Where(("embedding",)), named=("layer size",)),
    code("forward", "no residual connections", AH, forward.no_residual, unseen=SAME_SIZE),
    code("forward", "A without exp", AD, _in(_as, bend=forward.log_abs), Where(("A_log",)), unseen=SAME_SIZE),
    code("forward", "beta without sigmoid", SD, _in(_bent, bend=forward.logit), Where(("beta",)), named=("gates saturated",)),
    code("forward", "convolution looks ahead", AD, _in(forward.other_conv, act=forward.from_the_future), unseen=SAME_SIZE),
    code("forward", "ReLU in place of SiLU", SH, forward.relu_for_silu, named=("layer size",)),
    code("forward", "tanh gate", AH, _in(_bent, bend=forward.sigmoid_of_silu), Where(("gate",)), named=("layer size",)),
    code("forward", "keys of the next dimension", AD, _in(_bent, bend=forward.rolled), Where(("k_unit",)), unseen=SAME_SIZE),
    code("forward", "targets not shifted", SH, forward.shifted_targets, unseen="the loss of another task falls too"),
    code("forward", "dropout left on", AD, _in(_bent, bend=forward.dropped_out), Where(("mlp_out",)), unseen=SAME_SIZE),
)
_kernel = kernels.kernel
_KERNEL = (
    code("kernel", "state lost between chunks", AD, _in(_kernel, wrong=kernels.state_lost, long=True), named=("path",)),
    code("kernel", "10% off beyond 64 tokens", SH, _in(_kernel, wrong=kernels.tail_scaled, long=True), named=("path",)),
    code("kernel", "last chunk empty if not full", AH, _in(_kernel, wrong=kernels.last_chunk_empty, long=True), named=("path",)),
    code("kernel", "state decays twice", SD, _in(_kernel, wrong=kernels.decayed_twice), named=("path",)),
    code("kernel", "writes with strength 1", AD, _in(_kernel, wrong=kernels.writes_all), named=("path",)),
    code("kernel", "q / sqrt(K)", AD, _in(_kernel, wrong=kernels.read_by_root_k), named=("path",)),
    code("kernel", "inputs rounded to bfloat16", SH, _in(_kernel, wrong=kernels.in_bfloat16), named=("path",)),
    code("kernel", "final state x2", AH, _in(_kernel, wrong=kernels.state_doubled), named=("path",)),
    code("kernel", "gradient of beta x2", AD, _in(_kernel, wrong=partial(kernels.gradient_scaled, which=4, factor=2.0)), named=("path",)),
    code("kernel", "gradient of the decay of the wrong sign", SD, _in(_kernel, wrong=partial(kernels.gradient_scaled, which=3, factor=-1.0)), named=("path",)),
    code("kernel", "gradient of k is missing", SH, _in(_kernel, wrong=partial(kernels.gradient_scaled, which=1, factor=0.0)), named=("path",)),
    code("kernel", "key dims beyond 16 left out", AD, _in(_kernel, wrong=kernels.wide_heads_wrong), named=("path",)),
)
_ROUNDING = (
    code("rounding", "weights stored in bfloat16", AD, _in(updates.rounded_to, dtype="bfloat16"), named=("applied", "rounded")),
    code("rounding", "weights stored in bfloat16", SD, _in(updates.rounded_to, dtype="bfloat16"), named=("applied", "rounded")),
    code("rounding", "weights stored in float16", AH, _in(updates.rounded_to, dtype="float16"), named=("applied", "rounded")),
    code("rounding", "weights on a grid of 1e-3", SH, _in(updates.on_a_grid, spacing=1e-3), named=("applied", "rounded", "nothing trained")),
    code("rounding", "readout stored in bfloat16", AD, _in(updates.rounded_to, dtype="bfloat16"), Where(("readout",))),
)
_MEASURING = (
    code("measuring", "length in place of rms", AD, _in(probes.other_size, size=probes.length), named=SIZES),
    code("measuring", "mean square in place of rms", SH, _in(probes.other_size, size=probes.mean_square), named=SIZES),
    code("measuring", "one size for all seeds", AH, _in(probes.other_size, size=probes.of_all_replicas), named=("copied seeds",)),
    code("measuring", "initial weights not kept", SD, probes.aliased_start, named=("applied", "never moves", "nothing trained")),
    code("measuring", "sizes of another seed", AD, _in(probes.other_size, size=probes.of_next_replica), named=("norm size",)),
)
_TOKENS = "the sizes are those of a model that learns something else"
_FRESH = (
    code("fresh", "updates with 30% noise", AD, _in(updates.noisy, share=0.3), Where(("up_proj",))),
    code("fresh", "every other update skipped, the rest doubled", SH, updates.alternating, named=APPLIED),
    code("fresh", "gradients of 8 levels", SD, updates.quantised, Where((V,))),
    code("fresh", "weights cut off at twice their rms", AH, _in(fresh.clamped, most=2.0), Where(HIDDEN)),
    code("fresh", "orthogonal updates in place of Adam's", AD, fresh.orthogonalised, Where((OUT,))),
    code("fresh", "signs in place of Adam's quotient", AH, _in(optimizers.adam, signed=True), named=APPLIED),
    code("fresh", "a constant added to each value of the embedding", AD, _in(fresh.pushed, share=0.5), Where(("embedding",))),
    code("fresh", "gradient of layer 0 in layer 1", SH, fresh.of_other_layer, Where(layer=1)),
    code("fresh", "rms of weights restored after each update", SD, fresh.sizes_restored, Where(("embedding", *HIDDEN))),
    code("fresh", "initial weights of the base width repeated", AD, fresh.tiled, Where(HIDDEN)),
    code("fresh", "k_proj starts as a copy of q_proj", SD, _in(fresh.copied_start, source=Q, to=K), Where((K,)), unseen="it has the size that it should have"),
    code("fresh", "readout starts as the embedding", AH, starts.readout_as_embedding, Where(("readout", "logits"))),
    code("fresh", "new batches in a coordinate check", AD, fresh.new_batches, named=("loss",)),
    code("fresh", "loss of the last token alone", SH, fresh.last_token_only, unseen=_TOKENS),
    code("fresh", "residual stream in bfloat16 at one width", AD, _in(_bent, bend=forward.half), Where(("residual",), width=128), unseen="it rounds by less than sizes scatter"),
)


def _harmless(name: str, setting: tuple[str, str], patch: Patch | None = None, **wrong: Any) -> Fault:
    """Return a change of code or settings that must not trip anything."""
    return Fault(name, *setting, "harmless", patch=patch, wrong=wrong, harmless=True)


_HARMLESS = (
    _harmless("Adam written in another way", AD, optimizers.adam),
    _harmless("SGD written in another way", SH, optimizers.sgd),
    _harmless("update taken apart and put together", AH, _in(_scaled, factor=1.0)),
    _harmless("reference in place of the kernel", SD, _in(_kernel, wrong=kernels.by_reference)),
    _harmless("sizes summed in float64", AD, _in(probes.other_size, size=probes.in_float64)),
    _harmless("other initial values", AH, starts.other_seeds),
    _harmless("half the lr", AD, lrs=[2.0**-13]),
    _harmless("twice the lr", SD, lrs=[2.0**-5]),
    _harmless("one layer", AH, n_layers=1),
    _harmless("tied", AD, tied=True, logit_scale=0.25),
    _harmless("float64", SH, dtype="float64"),
    _harmless("linear schedule", AD, schedule="linear", steps=6),
    _harmless("warm-up", SD, warmup_steps=3, steps=10),
    _harmless("independent decay", AH, weight_decay=0.1, decay_mode="independent"),
    _harmless("independent decay under SGD", SH, weight_decay=0.1, decay_mode="independent"),
    _harmless("no momentum", SD, momentum=0.0),
    _harmless("other betas and eps", AD, beta1=0.8, beta2=0.99, eps=1e-7),
    _harmless("smaller projections, a larger embedding", AH, projection_factor=0.7, embedding_std=2.0),
    _harmless("norm's eps 1e-5", SH, norm_eps=1e-5),
    _harmless("a loose clip", AD, clip=1e6),
    _harmless("two sequences of 8 tokens", SD, batch_size=2, seq_len=8),
)
# fmt: on
CODE_FAULTS: tuple[Fault, ...] = (
    *_UPDATE,
    *_OPTIMIZER,
    *_DECAYS,
    *_SCHEDULE,
    *_FACTORS,
    *_INIT,
    *_SEEDS,
    *_NORM,
    *_FORWARD,
    *_KERNEL,
    *_ROUNDING,
    *_MEASURING,
    *_FRESH,
    *_HARMLESS,
)  # fmt: skip
