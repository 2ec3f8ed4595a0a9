"""doctor: what this machine offers."""

from mupcheck.cli.options import Json
from mupcheck.terminal.doctor_page import print_findings


def doctor(json: Json = False) -> None:
    """Say what this machine offers: torch, triton, GPU, and the backends that pass a self-test.

    Example: mupcheck doctor
    """
    from mupcheck.sweep.doctor import examine

    print_findings(examine(), as_json=json)
