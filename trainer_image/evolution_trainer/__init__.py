"""The worker: executes orders. The only part of the product that imports torch."""
