"""The commands that look at runs: plan, status, ls runs, gc. Free of torch."""
