"""The figures of runs as Prometheus metrics: what they are called, what they mean, and how they are written down."""
