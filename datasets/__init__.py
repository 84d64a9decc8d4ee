"""Tables in: files and samples as they are, interactions in one canonical shape, and generated platforms."""
