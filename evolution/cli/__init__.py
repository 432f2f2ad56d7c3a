"""`evolve`, also installed as `kubectl-evolve`."""
