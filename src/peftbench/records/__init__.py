"""The truth about runs: one record a run, and all that stands around it. Free of torch."""
