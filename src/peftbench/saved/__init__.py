"""Finished runs put to use: answers for new rows, model cards, and folders that need no peftbench."""
