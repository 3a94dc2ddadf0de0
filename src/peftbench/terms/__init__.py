"""`peftbench terms`: label words for KPT and SciPrompt, retrieved from a collection of terms on this machine."""
