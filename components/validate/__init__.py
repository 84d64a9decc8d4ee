"""Step one: the raw tables, checked, in canonical form."""
