"""Sticky assignment: who gets which version, and the process between the gateway and the versions that sees to it."""
