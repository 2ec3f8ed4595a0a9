"""A benchmark with rows of ours, of a peer, wrong ones and a step, as if it had been timed."""

from mupcheck.bench.rows import Bench, Machine, Row, Timing

FACTS = {"H": 6, "dtype": "bfloat16", "T": 1024, "B": 32, "tokens": 32768}


def timing(milliseconds: float) -> Timing:
    return Timing(1e-3 * milliseconds, 0.9e-3 * milliseconds, 1.1e-3 * milliseconds, 50)


def row(backend: str, own: bool, both: float | None, **more) -> Row:
    ways = {"forward": 1 / 3, "both": 1, "forward in a graph": 1 / 3, "both in a graph": 1}
    times = {} if both is None else {what: timing(both * share) for what, share in ways.items()}
    return Row("op", "K=32 V=64, 32 x 1024", backend, own, {"o": 1e-3}, times=times, facts=FACTS, **more)


OURS = row("triton", True, 1.0, shares={"both": 0.4, "both in a graph": 0.5}, peak_bytes=int(0.5e9))
PEER = row("FLA 0.6.0", False, 2.12, shares={"both": 0.1}, peak_bytes=int(0.66e9))
WRONG = row("chunk", True, None, refused="disagrees with float64: dq by 3.0e-02 (> 0.01)", peak_bytes=0)
STEP = Row(
    "step", "d=256", "mupcheck triton, R=16", True, times={"step": timing(40), "a run": timing(2.5)},
    facts={"tokens": 8192, "layers": 8, "dtype": "bfloat16"},
)  # fmt: skip
KNOWN = {"device": "a GPU", "date": "2026-11-26 10:00 UTC", "commit": "0123456789abcdef+", "torch": "2.11"}
KNOWN |= {"peers": {"fla-core": "0.6.0", "mup": None}, "threads": None}
BENCH = Bench(KNOWN, Machine(3e12, 7e14, 5e-6, "8192^3 bfloat16"), [OURS, PEER, WRONG, STEP])
