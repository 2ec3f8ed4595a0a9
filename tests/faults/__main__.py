"""The figures of the sweep engine, measured: `make faults`, or those named: `python tests/faults kills fuzz`."""

import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lines import Line, as_table

SCRIPTS = (
    *("kills", "crash_points", "io_errors", "interrupts", "fuzz", "vanishing"),
    *("several", "damaged_bytes", "ten_thousand", "speed"),
)


def main(names: list[str]) -> int:
    """Measure what is named, or all; return 1 where something falls short."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what it starts has no other, behind a shell's & either
    unknown = [name for name in names if name not in SCRIPTS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(SCRIPTS)}")
    lines: list[Line] = []
    for name in names or SCRIPTS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults-") as place:
            for line in import_module(name).measure(Path(place)):
                lines.append(line)
                print(f"{line.says}: {line.measured}", *line.faults[:20], sep="\n  ", file=sys.stderr, flush=True)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(as_table(lines))
    return int(not all(line.good for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
