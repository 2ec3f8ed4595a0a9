"""The verdict on learning rates: curves, optima, drift, and what stands beside the drift."""
