"""Verdicts against what is expected of them, for CI: check, baselines, reports, the pytest plugin."""
