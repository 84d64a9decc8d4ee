"""Rollouts: a new version gets traffic step by step, on evidence, and is taken back on evidence."""
