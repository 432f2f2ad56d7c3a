"""What the operator costs on a real control plane, and what other controllers cost beside it."""
