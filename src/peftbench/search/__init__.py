"""Settings chosen on dev: above `run`, which it calls for every trial."""
