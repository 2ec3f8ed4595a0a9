"""How fast the op, a training step and a coordinate check are: beside others, and beside what the machine can do."""
