"""Synthetic rollouts: the decisions of a policy, and of other tools, on traffic whose truth is known."""
