"""The feedback collector: believes, deduplicates, joins and counts what users did with their answers."""
