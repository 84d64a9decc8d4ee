"""Compositions of steps, and what runs them."""
