"""Benchmarks of the trainer: ratios side by side in one run."""
