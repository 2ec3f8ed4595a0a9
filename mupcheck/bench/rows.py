"""What was measured: one row a case and backend, with provenance, as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

DISAGREES = "disagrees with float64"
# relative norm error of the op's output and of each gradient against float64
ALLOWED_ERROR = {"bfloat16": 1e-2, "float32": 1e-5}
# nats between a loss and the one in float64 with the same weights and batches, over the first steps: bfloat16 rounds
# logits of size 1 by 2e-3, and AdamW's first steps take the sign of gradients near 0 either way
ALLOWED_NATS = {"bfloat16": 0.02, "float32": 1e-3}


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


def disagreement(errors: dict[str, float], allowed: float) -> str | None:
    """Return why outputs with these errors get no time, None where each is at most `allowed`.

    An error that is not a number is no agreement.
    """
    wrong = {name: error for name, error in errors.items() if not error <= allowed}
    if not wrong:
        return None
    return f"{DISAGREES}: " + ", ".join(f"{name} by {error:.1e}" for name, error in wrong.items()) + f" (> {allowed:g})"


def short(error: BaseException) -> str:
    """Return an error in one short line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 160 else f"{said[:157]}..."
