"""Where artifacts live: one protocol, a local folder and any S3-compatible store behind it."""
