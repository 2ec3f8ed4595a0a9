"""One browser for all tests of pages that a process runs."""

import pytest


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, where one is installed."""
    from browser import lacking, started

    if why := lacking():
        pytest.skip(why)
    with started() as driver:
        yield driver
