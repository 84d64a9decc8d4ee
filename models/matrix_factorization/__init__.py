"""Implicit matrix factorisation by alternating least squares, with regression on user features."""
