"""Where a pipeline can run."""
