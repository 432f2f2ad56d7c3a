"""Benchmarks: run by hand and nightly, never judged by the tests."""
