"""Typed resources of `selfevolution.io/v1alpha1`: the run file, its presets, its validation and its status."""
