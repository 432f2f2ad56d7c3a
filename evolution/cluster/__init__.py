"""Runs of a cluster, as their author reaches them: through the user's kubectl."""
