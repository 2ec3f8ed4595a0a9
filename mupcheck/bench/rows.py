"""What was measured: one row a case and backend, with provenance, as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

DISAGREES = "disagrees with float64"
# relative norm error of the op's output and of each gradient against float64
ALLOWED_ERROR = {"bfloat16": 1e-2, "float32": 1e-5}
# nats between a loss and the one in float64 with the same weights and batches, over the first steps (in bfloat16 6e-3
# was seen, d = 256 to 1024, six seeds), and what a peer may be off by, which rounds more: FLA 0.6.0 by 0.037
ALLOWED_NATS = {"bfloat16": 0.02, "float32": 1e-3}
ALLOWED_NATS_OF_PEERS = {"bfloat16": 0.1, "float32": 1e-3}
# relative, of the norm of the first gradient. Most of it comes down through the unit norms of short q and k, where
# bfloat16 costs ours 11% and FLA 16%; in float32 3e-5 were seen
ALLOWED_NORM = {"bfloat16": 0.25, "float32": 1e-3}


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median and the quartiles around it, of `calls` calls."""

    median: float
    low: float
    high: float
    calls: int


@dataclass(frozen=True)
class Machine:
    """What the machine at hand does at best: bytes copied (read and written), a matrix product, an empty launch."""

    bytes_per_second: float
    flops_per_second: float
    launch_seconds: float
    product: str


@dataclass(frozen=True)
class Row:
    """One backend or peer in one case.

    Attributes:
        suite: "op", "step" or "coord".
        case: what was computed, such as "K=32 V=64".
        backend: what computed it; a peer's name with its version.
        own: whether it is one of mupcheck's.
        errors: relative errors against float64 by name; empty where nothing was compared.
        refused: why there is no time: the outputs disagree, it is not available, out of memory.
        times: seconds by what was timed; empty where refused.
        shares: by what was timed, the least time that the machine's ceilings allow over the time taken.
        peak_bytes: memory at its peak beyond the inputs (op) or in all (step), on a GPU.
        facts: sizes and counts that belong to the case.
    """

    suite: str
    case: str
    backend: str
    own: bool
    errors: dict[str, float] = field(default_factory=dict)
    refused: str | None = None
    times: dict[str, Timing] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> float | None:
        """Return the largest error, None where nothing was compared."""
        return max(self.errors.values()) if self.errors else None


@dataclass(frozen=True)
class Bench:
    """All that one run of `mupcheck bench` found."""

    provenance: dict[str, Any]
    machine: Machine
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON document."""
        return {"provenance": self.provenance, "machine": asdict(self.machine), "rows": [asdict(r) for r in self.rows]}

    @property
    def wrong(self) -> list[Row]:
        """Return the rows of mupcheck's own that disagree with float64, and one that says why the rest is missing."""
        return [
            row
            for row in self.rows
            if row.own and row.refused and (DISAGREES in row.refused or row.backend == "stopped")
        ]


def disagreement(errors: dict[str, float], allowed: float | dict[str, float]) -> str | None:
    """Return why outputs with these errors get no time, None where each is at most what is allowed, to all or by name.

    An error that is not a number is no agreement.
    """
    limits = allowed if isinstance(allowed, dict) else dict.fromkeys(errors, allowed)
    wrong = [
        f"{name} by {error:.1e} (> {limits[name]:g})" for name, error in errors.items() if not error <= limits[name]
    ]
    return f"{DISAGREES}: " + ", ".join(wrong) if wrong else None


def short(error: BaseException) -> str:
    """Return an error in one short line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 160 else f"{said[:157]}..."
