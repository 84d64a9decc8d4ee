"""Rollouts on a cluster: the same `decide()` behind a custom resource."""
