"""What a run costs on a GPU: memory and time of the fused kernels, counted tensor by tensor.

Kept from the forward pass for the backward one, per token and layer (d width, h hidden, H heads, K and V of a head, e
bytes of a value: 2 in bfloat16, else 4; C = 64 steps a chunk):

    8 d                    the residual stream in float32, as it enters either norm
    2 e d                  what comes out of both
    3 e h                  the MLP's gate and up, and their product
    2 e H (2 K + V)        q, k, v before the short convolution, and after it
    4 e H V                output gate, o, their product, and what the delta rule writes
    e H (C + K V / C)      its inverse, and the states at the ends of chunks
    4 (2 + 7 H)            norms' scalars, gates before and after their arithmetic

Beside them each value takes 14 bytes in bfloat16 under AdamW (weight, moments, and the weight as products see it); its
gradient comes where activations are given back. Measured (H200, 2026-11; 8 layers, 6 heads, K = d / 8, V = d / 4, 8,192
tokens a step) at the peak of a step, by the allocator with its graphs, and as estimated with what is added for these:

    width  R    GiB at the peak  reserved  estimated   ms a step  nominal
      256   1          1.2          1.4       1.8          4.6       4.6
      256  16         17.7         19.4      22.3         38.4      40.3
      512   8         20.0                   24.5         49.6      52.7
     1024   8         48.3         55.3      58.9        146.5     154.6
     1536   2         22.4                   26.3         77.6      78.9

These hold for the Triton backend; other backends keep what the torch forms do, as on a CPU (`cost.py`). Times are
nominal; they order and part groups, and `estimate.py` holds them to steps that it times.
"""

from mupcheck.spec.run import RunSpec

# Tokens of the delta rule's chunk, and the vocabulary from which on logits exist for a part of the tokens only.
CHUNK, LARGE_VOCABULARY, PARTED_LOGITS_BYTES = 64, 4096, 2**28
# What the allocator's gaps and the graphs' own pools add; what matrix library, kernels and graphs take.
SPILL_PERCENT, GROUP_BYTES = 110, 384 * 2**20
# Products reach this many operations a second, passes over memory this many bytes; a block's kernels take this long to
# start from a graph, forward, backward and update; what is kept is passed over five times.
BFLOAT16_FLOPS, FLOAT32_FLOPS, BYTES_A_SECOND = 7e14, 2.5e13, 3.5e12
BLOCK_SECONDS, PASSES = 2.5e-4, 5
# Without the kernels the host calls torch form by form.
EAGER_BLOCK_SECONDS, EAGER_FLOPS = 0.016, 2e13
# A group's start: warm-up and capture, kernels being compiled; a value's start, drawn on the host.
GROUP_SECONDS, VALUE_SECONDS = 2.0, 1e-8


def element_bytes(run: RunSpec) -> int:
    """Return the bytes of a value of an activation that the kernels keep."""
    return 2 if run.dtype == "bfloat16" else 4


def kept_bytes(run: RunSpec) -> int:
    """Return what one token keeps in one layer for the way back."""
    (heads, k_dim, v_dim), e = run.heads, element_bytes(run)
    values = 2 * run.width + 3 * run.mlp_ratio * run.width + heads * (4 * k_dim + 6 * v_dim)
    values += heads * (CHUNK + -(-k_dim * v_dim // CHUNK))
    return 8 * run.width + e * values + 4 * (2 + 7 * heads)


def passing_bytes(run: RunSpec, values: int) -> int:
    """Return the most that one replica has of what comes and goes: at the end of the forward pass, or of the backward.

    Args:
        values: trained values of one replica, whose gradients there are at the end of the backward pass.
    """
    (heads, k_dim, v_dim), e, tokens = run.heads, element_bytes(run), run.batch_size // run.accumulation * run.seq_len
    states = heads * -(-k_dim * v_dim // CHUNK)
    block = tokens * (8 * run.width + e * max(4 * run.mlp_ratio * run.width, 2 * states + 6 * heads * (k_dim + v_dim)))
    logits = tokens * 2 * e * run.vocab_size
    if run.vocab_size >= LARGE_VOCABULARY:
        logits = min(logits, PARTED_LOGITS_BYTES)
    layer = tokens * kept_bytes(run)
    at_the_turn = run.n_layers * layer + tokens * (8 + 2 * e) * run.width + max(block, logits)
    return max(at_the_turn, layer + block + 4 * values)


def weight_bytes(run: RunSpec, values: int, largest: int) -> int:
    """Return what one replica's weights take: in float32 with moments, and as the products see them."""
    each = (12 if run.optimizer == "adamw" else 8) + (2 if run.dtype == "bfloat16" else 0)
    return each * values + 8 * largest


def step_seconds(run: RunSpec, replicas: int, *, flops: float, values: int) -> float:
    """Return the nominal time of a step of a group; `flops` and `values` are one replica's."""
    if run.backend != "triton":
        return EAGER_BLOCK_SECONDS * (run.n_layers + 1) + replicas * flops / EAGER_FLOPS
    speed = BFLOAT16_FLOPS if run.dtype == "bfloat16" else FLOAT32_FLOPS
    passed = PASSES * run.batch_size * run.seq_len * run.n_layers * kept_bytes(run) + 34 * values
    return BLOCK_SECONDS * (run.n_layers + 1) + replicas * (flops / speed + passed / BYTES_A_SECOND)
