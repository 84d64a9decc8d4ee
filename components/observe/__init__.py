"""What the world outside the pipeline looks like when a run begins."""
