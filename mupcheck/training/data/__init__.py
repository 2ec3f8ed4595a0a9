"""Token batches: where tokens come from, how they split into train and held-out, and which of them a step sees."""
