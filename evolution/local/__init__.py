"""A run on this machine: one resident worker process, no cluster."""
