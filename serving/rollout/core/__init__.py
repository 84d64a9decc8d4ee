"""The decisions of a rollout: pure statistics and one pure function, `decide`. No clock, no input or output."""
