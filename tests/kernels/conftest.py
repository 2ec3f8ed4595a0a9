"""Without triton these tests are skipped; where there is no GPU its interpreter runs kernels (tests/conftest.py)."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
