"""The tiny sweep, trained once."""

import pytest
from tiny_sweeps import tiny, trained


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The tiny sweep, trained once; tests that change files copy what they need."""
    out = tmp_path_factory.mktemp("done")
    return out, *trained(tiny(), out, jobs=1)
