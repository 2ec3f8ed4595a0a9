"""Token batches: one file a source, how tokens split into train and held-out, and which of them a step sees."""
