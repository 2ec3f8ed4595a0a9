"""One group of runs, trained: data, optimizers, and a generator of step rows."""
