"""Sweeps: a project's search space as a Katib Experiment, and the same Experiment run on this machine by Optuna."""
