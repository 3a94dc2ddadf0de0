"""What can be read from a table whose cells were tuned beside cells as given: `peftbench board`. See docs/board.md.

`reading.py` works out ranks, ties, gains and fronts, `page.py` puts them into words, `command.py` writes the folder.
"""
