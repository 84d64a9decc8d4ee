"""One trial of a sweep: a model trained with given parameters and measured on what the sweep chooses on."""
