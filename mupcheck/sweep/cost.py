"""What a run costs by its shape alone: values, FLOPs, memory and work, in closed form and so at once for any size.

Memory and work were calibrated on one core of a CPU: 54 groups of 1 to 16 replicas, widths 32 to 1024, 16 to 2048
tokens a step, vocabularies of 256 and 50,000. Memory was estimated at 0.90 to 1.25 of what was measured (MiB), with
full probes at 0.80 to 1.05 (14 groups, after they came to keep what each update should have been):

    width  R  layers  B x T    vocab   probes       measured  estimated
      64   1    2     1 x 16     256   full               27         21
     128  16    2     1 x 16     256   full              441        461
     512  16    2     1 x 16     256   none             2544       2584
      64  14    1     8 x 48     256   none              166        158
      64   4    2     4 x 512    256   none              350        316
     256   2    2     4 x 512    256   none              637        627
     128   4    6     4 x 128    256   none              501        496
      64   4    2     4 x 64   50000   none              966       1082

The time of a step was within 30% of its share of `group_work` for all of them. On an H100 six groups of 2 to 18 GiB
of the torch forms reserved 0.73 to 1.1 times what is estimated (bfloat16 the least). Those of the Triton backend keep
less, and take other times: `cuda_cost.py` counts them.
"""

from typing import NamedTuple

from mupcheck.spec.run import RunSpec
from mupcheck.sweep import cuda_cost

# What torch, the allocator and the kernels' own memory add to a process, and to what is counted.
PROCESS_BYTES, SPILL_PERCENT = 32 * 2**20, 105
# Python objects of a step's row and schedule, and of a recorded quantity; each has a list over replicas.
STEP_BYTES, CELL_BYTES, REPLICA_STEP_BYTES, REPLICA_CELL_BYTES = 700, 160, 220, 40
# Floating-point operations of a large matrix product that take as long as: an activation, made and differentiated; a
# value's update; the calls of a block. A recorded step measures every value, by a few products more; what each update
# should have been is worked out beside it.
ACTIVATION_WORK, VALUE_WORK, BLOCK_WORK = 245, 450, 2.2e8
RECORDED_FLOPS, RECORDED_VALUE_WORK, RECORDED_BLOCK_WORK = 1.2, 1400, 2.9e8
COMPARED_VALUE_WORK, COMPARED_BLOCK_WORK = 450, 3e8
INITIAL_VALUE_WORK = 2000
# As in ops/chunk.py and measuring/probes.py, which import torch: two seconds, and a size is known at once.
CHUNK, LONGEST_SINGLE_CHUNK, SMALL_MATRIX = 32, 64, 2**16
# Of each device that shares a run: blocks that are whole for a moment (one and the next, a gradient, all of them as
# they are sent), and what a process takes beside. Six groups on 2 processes of a CPU, widths 128 to 1024, were
# estimated at 0.9 to 1.2 of what was measured (111 to 623 MiB), the smallest at 1.6.
GATHERED, SHARING_BYTES = 6, 96 * 2**20


class Sizes(NamedTuple):
    """Numbers of values of one replica."""

    values: int  # trained
    largest: int  # of one weight
    small: int  # of all small matrices
    activations: int  # kept from the forward pass for the backward one
    backward: int  # made on the way back in one block
    logits: int
    watched: int  # at all sites of a full probe


def count_parameters(run: RunSpec) -> int:
    """Return the number of trained values of one run's model, without making them."""
    return sizes(run).values


def sizes(run: RunSpec) -> Sizes:
    """Return how many values one replica has, of each kind."""
    (heads, k_dim, v_dim), width, hidden = run.heads, run.width, run.mlp_ratio * run.width
    keys, values = heads * k_dim, heads * v_dim
    matrices = [*[width * keys] * 2, *[width * values] * 3, *[width * heads] * 2, *[width * hidden] * 3]
    others = 2 * width + run.conv_size * (2 * keys + values) + 2 * heads + v_dim
    rows = width * run.vocab_size
    batch = run.batch_size // run.accumulation
    tokens = batch * run.seq_len
    n_chunks = 1 if run.seq_len <= LONGEST_SINGLE_CHUNK else -(-run.seq_len // CHUNK)
    chunk = -(-run.seq_len // n_chunks)
    states = batch * heads * k_dim * v_dim
    if run.backend == "reference":
        kept_states = 5 * run.seq_len * states
    else:
        kept_states = (n_chunks + 1 if n_chunks > 1 else 1) * states
    # norms keep 3 of their width; q and k are kept before and after convolution, SiLU and norm, and in chunks
    mixer = (14 if n_chunks > 1 else 12) * keys + 11 * values + 3 * heads * chunk + 20 * heads
    block = tokens * (6 * width + mixer + 4 * hidden) + kept_states
    return Sizes(
        values=run.n_layers * (sum(matrices) + others) + (1 if run.tied else 2) * rows + width,
        largest=max(*matrices, rows),
        small=run.n_layers * sum(n for n in matrices if n <= SMALL_MATRIX) + (rows if rows <= SMALL_MATRIX else 0),
        activations=run.n_layers * block + 4 * tokens * width,
        backward=max(
            3 * tokens * hidden, tokens * (6 * keys + 5 * values + 4 * heads * chunk) + (n_chunks + 1) * states
        ),
        logits=tokens * run.vocab_size,
        watched=run.n_layers * (tokens * (6 * width + hidden + 6 * keys + 5 * values + 4 * heads) + states)
        + tokens * (2 * width + run.vocab_size),
    )


def weight_bytes(run: RunSpec) -> int:
    """Return the memory that one replica's matrices take in training: weight, gradient, moments and temporaries."""
    copies = (5 if run.optimizer == "adamw" else 4) + (5 if run.probes == "full" else 0)
    return 4 * copies * matrix_weights(run)


class Memory(NamedTuple):
    """Bytes that a group takes at its peak, by what they grow with."""

    weights: int  # with gradients, moments and a probe's copies
    activations: int  # with logits: as they are, as log-probabilities, as a gradient; and a probe's copies
    rows: int  # of steps and recorded quantities, kept until they are written


def group_bytes(run: RunSpec, replicas: int, *, devices: int = 1) -> int:
    """Return the memory that a group takes at its peak, beside torch and the data, on each of the devices it shares."""
    own = cuda_cost.GROUP_BYTES if _fused(run) else PROCESS_BYTES if devices == 1 else SHARING_BYTES
    return own + sum(group_memory(run, replicas, devices=devices))


def _fused(run: RunSpec) -> bool:
    """Say whether a run's activations are those of the fused kernels; a probe watches the torch forms."""
    return run.backend == "triton" and run.probes == "none"


def group_memory(run: RunSpec, replicas: int, *, devices: int = 1) -> Memory:
    """Return what a group takes at its peak: on the way back, or while weights are updated or measured.

    Args:
        devices: that train a run together, each with its part of the weights and of the batch; what is returned is of
            one of them.
    """
    if devices > 1 and replicas:
        return _shared_memory(run, devices)
    size, full = sizes(run), run.probes == "full"
    if _fused(run):
        parts = (cuda_cost.weight_bytes(run, size.values, size.largest), cuda_cost.passing_bytes(run, size.values))
        held = [replicas * cuda_cost.SPILL_PERCENT * part // 100 for part in parts]
        return Memory(held[0], held[1], _row_bytes(run, replicas))
    passing = size.activations + max(size.backward, 3 * size.logits)
    updating = 2 * (size.small + size.largest) if full else size.largest
    # a probe keeps the first weights and the last, what an update should come from, and room to compare it in
    weights = size.values * ((4 if run.optimizer == "adamw" else 3) + 4 * full) + 3 * size.largest * full
    weights += max(updating - passing, 0)
    activations = passing + (size.watched if full else 0)
    per_value = replicas * (8 if run.dtype == "float64" else 4)
    held = [per_value * SPILL_PERCENT * values // 100 for values in (weights, activations)]
    return Memory(held[0], held[1], _row_bytes(run, replicas))


def _shared_memory(run: RunSpec, devices: int) -> Memory:
    """Return what each of several devices takes at the peak of a run that they share."""
    part = run.model_copy(update={"batch_size": run.batch_size // devices})
    whole, size, full = sizes(run), sizes(part), run.probes == "full"
    n_bytes = 8 if run.dtype == "float64" else 4
    ends = (1 if run.tied else 2) * run.width * run.vocab_size
    block = max((whole.values - ends) // run.n_layers, ends // (1 if run.tied else 2))
    if run.dtype == "bfloat16":
        block = whole.largest  # gathered one by one
    gathered = GATHERED * block
    # measured one weight at a time: its change, and as it came from every device
    gathered = max(gathered, 3 * whole.largest) if full else gathered
    kept = whole.values * ((4 if run.optimizer == "adamw" else 3) + 4 * full) // devices + gathered
    kept += 3 * whole.largest * full // devices
    passing = size.activations + max(size.backward, 3 * size.logits) + (size.watched if full else 0)
    held = [n_bytes * SPILL_PERCENT * values // 100 for values in (kept, passing)]
    return Memory(held[0], held[1], _row_bytes(run, 1))


def _row_bytes(run: RunSpec, replicas: int) -> int:
    """Return what a group's rows take until they are written; on a GPU they lie on the host, and are little."""
    cells = len(run.record) * (148 * run.n_layers + 34)
    rows = n_steps(run) * (STEP_BYTES + REPLICA_STEP_BYTES * replicas)
    return rows + cells * (CELL_BYTES + REPLICA_CELL_BYTES * replicas)


def n_steps(run: RunSpec) -> int:
    """Return how often a run goes through the model and back: a coordinate check ends at its last recorded step."""
    return max(run.record) + 1 if run.record else run.steps


def n_evaluations(run: RunSpec) -> int:
    """Return how often a run is evaluated."""
    if not run.eval_tokens or n_steps(run) < run.steps:
        return 0
    often = run.steps // run.eval_every if run.eval_every else 0
    return often + (not run.eval_every or run.steps % run.eval_every > 0)


def matrix_weights(run: RunSpec) -> int:
    """Return the number of weights that multiply every token: all but embedding rows, gains, filters and scalars."""
    heads, k_dim, v_dim = run.heads
    projections = run.width * heads * (2 * k_dim + 3 * v_dim + 2) + 3 * run.mlp_ratio * run.width**2
    return run.n_layers * projections + run.width * run.vocab_size


def step_flops(run: RunSpec) -> float:
    """Return the floating-point operations of one training step.

    A matrix weight takes 6 per token; the delta rule takes 2 C (3 K + 2 V) + 6 K V per token and head forward, and 2.7
    times that backward (C = 32).
    """
    heads, k_dim, v_dim = run.heads
    mixer = run.n_layers * heads * (2 * 32 * (3 * k_dim + 2 * v_dim) + 6 * k_dim * v_dim) * 3.7
    return (6 * matrix_weights(run) + mixer) * run.batch_size * run.seq_len


def run_flops(run: RunSpec, *, held_out: int) -> float:
    """Return the floating-point operations of a run, its evaluations included: a forward pass is a third of a step.

    Args:
        held_out: tokens there are to evaluate on.
    """
    return step_flops(run) * (n_steps(run) + evaluation_steps(run, held_out=held_out) / 3)


def evaluation_steps(run: RunSpec, *, held_out: int) -> float:
    """Return how many steps' tokens a run is evaluated on."""
    return n_evaluations(run) * max(
        min(run.eval_tokens, held_out) / (run.batch_size * run.seq_len), 1 / run.accumulation
    )


def group_work(run: RunSpec, replicas: int, *, held_out: int = 0) -> float:
    """Return the work of training a group, in floating-point operations of a large matrix product on one CPU core."""
    size, steps = sizes(run), n_steps(run)
    blocks = run.n_layers + 0.5
    activations = run.accumulation * (size.activations + 3 * size.logits)
    passes = 0.9 * step_flops(run) + ACTIVATION_WORK * activations
    calls = run.accumulation * BLOCK_WORK * blocks
    evaluated = evaluation_steps(run, held_out=held_out) / 3
    work = steps * (replicas * (passes + VALUE_WORK * size.values) + calls) + evaluated * (replicas * passes + calls)
    if run.probes == "full":
        measured = RECORDED_FLOPS * step_flops(run) + RECORDED_VALUE_WORK * size.values
        work += len(run.record) * (replicas * measured + RECORDED_BLOCK_WORK * blocks)
        work += min(steps, run.steps) * (replicas * COMPARED_VALUE_WORK * size.values + COMPARED_BLOCK_WORK * blocks)
    return work + replicas * INITIAL_VALUE_WORK * size.values


def cuda_seconds(run: RunSpec, replicas: int, *, held_out: int = 0) -> float:
    """Return the nominal time of training a group on a GPU."""
    values, flops, steps = count_parameters(run), step_flops(run), n_steps(run)
    step = cuda_cost.step_seconds(run, replicas, flops=flops, values=values)
    recorded = 4 * len(run.record) * cuda_cost.EAGER_BLOCK_SECONDS * (run.n_layers + 1)
    evaluated = evaluation_steps(run, held_out=held_out) / 3
    start = cuda_cost.GROUP_SECONDS + replicas * values * cuda_cost.VALUE_SECONDS
    return start + (steps + evaluated) * step + recorded
