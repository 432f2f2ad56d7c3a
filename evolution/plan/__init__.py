"""What a run consists of: stages with fingerprints, their manifests, the graph they form, and orders for workers."""
