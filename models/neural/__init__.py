"""Neural collaborative filtering: trained in PyTorch, scored in numpy."""
