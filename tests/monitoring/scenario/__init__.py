"""A day and two hours of an installation, written by hand, and what every expression must say about it."""
