"""Serving: predictor, feedback collector, the plane of one machine, and rollouts."""
