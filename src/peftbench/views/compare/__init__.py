"""`peftbench compare A B`: whether a difference is real, and what would settle it."""
