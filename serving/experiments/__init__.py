"""Many experiments at once: layers in which they do not meet, evidence, and discoveries whose error rate is held."""
