"""How steps become pods, and pipelines become objects of a cluster."""
