"""The operator: makes `EvolutionRun` resources true on a Kubernetes cluster."""
