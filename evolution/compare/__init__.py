"""Arms of one run side by side: the same run with some fields set otherwise, on the same questions and seeds."""
