"""The gated delta rule in Triton; imported only where a CUDA tensor arrives (or under the interpreter in tests)."""
