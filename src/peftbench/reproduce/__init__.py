"""`peftbench reproduce RUN_ID`: a recorded run once more, and whether it gives the same."""
