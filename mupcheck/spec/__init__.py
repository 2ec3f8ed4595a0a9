"""What a model, a run and a sweep are: frozen, validated specs."""
