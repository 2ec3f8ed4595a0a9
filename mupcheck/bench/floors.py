"""What the gated delta rule cannot do without: its floating-point operations and its bytes, hence its least time."""

# The length of time that is worked through at once; it decides how many states are kept for the backward pass.
CHUNK = 64


def forward_flops(key_dim: int, value_dim: int) -> float:
    """Return the operations of the forward pass, a token and head: 2C(3K + 2V) + 6KV + 2,500.

    Two [C, K] x [K, C] products (Q K^T and K K^T) and two [C, C] x [C, V] (the writes and what is read of them) with
    the inverse, three [C, K] x [K, V] with the state.
    """
    return 2 * CHUNK * (3 * key_dim + 2 * value_dim) + 6 * key_dim * value_dim + 2500


def backward_flops(key_dim: int, value_dim: int) -> float:
    """Return the operations of the backward pass, a token and head, about 2.7 times those of the forward pass.

    Eight products of [C, K] x [K, V]: the state's own two again, and both gradients of each of the three.
    """
    return 2 * CHUNK * (9 * key_dim + 5 * value_dim) + 16 * key_dim * value_dim + 16_500


def forward_bytes(key_dim: int, value_dim: int, item_bytes: int = 2) -> float:
    """Return the bytes moved by a forward pass that keeps its states for a backward pass, a token and head.

    q, k and v are read and o written once, two gates in float32; one state [K, V] a chunk is written.
    """
    state = key_dim * value_dim / CHUNK
    return item_bytes * (2 * key_dim + 2 * value_dim + state) + 8


def backward_bytes(key_dim: int, value_dim: int, item_bytes: int = 2) -> float:
    """Return the bytes moved by a backward pass, a token and head.

    q, k, v and the gradient of o are read, the gradients of q, k and v written, two gates read and their gradients
    written in float32; one state a chunk is read.
    """
    state = key_dim * value_dim / CHUNK
    return item_bytes * (4 * key_dim + 3 * value_dim + state) + 16


def both(key_dim: int, value_dim: int, item_bytes: int = 2) -> tuple[float, float]:
    """Return operations and bytes of forward and backward together, a token and head."""
    flops = forward_flops(key_dim, value_dim) + backward_flops(key_dim, value_dim)
    return flops, forward_bytes(key_dim, value_dim, item_bytes) + backward_bytes(key_dim, value_dim, item_bytes)


def least_seconds(flops: float, n_bytes: float, *, flops_per_second: float, bytes_per_second: float) -> float:
    """Return the least time of so much work: of its products at the machine's rate or of its bytes, the longer one."""
    return max(flops / flops_per_second, n_bytes / bytes_per_second)


def step_flops(width: int, *, n_layers: int, n_heads: int, key_dim: int, value_dim: int, vocab: int, mlp: int) -> float:
    """Return the operations of a training step, a token: 6 for each weight of a matrix, and the delta rule's own."""
    weights = n_layers * width * (n_heads * (2 * key_dim + 3 * value_dim + 2) + 3 * mlp * width) + width * vocab
    return 6.0 * weights + n_layers * n_heads * both(key_dim, value_dim)[0]
