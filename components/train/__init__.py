"""Trains a model of any family and writes its bundle."""
