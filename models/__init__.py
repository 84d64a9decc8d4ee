"""The model families: fit, score, save and load behind one small interface."""
