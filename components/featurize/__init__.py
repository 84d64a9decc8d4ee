"""Step two: what is held out, and features as of each event's own time."""
