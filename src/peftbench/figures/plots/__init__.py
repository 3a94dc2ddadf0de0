"""Figures of the records: the same data as SVG, PDF, PNG or JSON. See docs/report.md.

`data.py` makes the plain data of each kind, `draw.py` and `curves.py` draw them with matplotlib, which is imported only
when a picture is wanted.
"""

KINDS = {
    "shots": "score against the number of shots: a line a method with its interval as a band",
    "pareto": "score against trainable parameters, memory and time, with intervals and the Pareto front",
    "ranks": "critical-difference diagram: average ranks over tasks, and who is not told apart",
    "languages": "heat map of methods by language (or other subset)",
    "cost": "seconds of a run by phase, a bar a method",
    "training": "training loss, dev score and learning rate, a line a run",
}
"""Name of each kind of plot and what it shows."""
