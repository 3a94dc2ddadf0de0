"""Where a soft prompt may start, for the options of the tuners that have one. Free of torch."""

PROMPT_STARTS = ("vocab", "text", "labels", "random", "bayesprompt", "bayesprompt_shots", "cones")
"""See `peftbench.tuners.prompt_init`."""
