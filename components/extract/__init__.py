"""Sources as they are now, copied into an artifact of the run."""
