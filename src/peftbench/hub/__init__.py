"""Repositories on the Hugging Face hub, of models and of data sets alike: which commit, its files, and what went wrong.

Everything of peftbench that needs the hub comes through here, so that it is asked, waited for, checked and explained in
one way. Free of torch; the hub's client is imported when it is needed.
"""

from peftbench.hub.asking import patiently, resolve, say
from peftbench.hub.blobs import is_cached
from peftbench.hub.fetching import fetch, readable, stoppable
from peftbench.hub.problems import HubProblem, explain, gated, known_problem
from peftbench.hub.repository import COMMIT, Repository

__all__ = [
    "COMMIT",
    "HubProblem",
    "Repository",
    "explain",
    "fetch",
    "gated",
    "is_cached",
    "known_problem",
    "patiently",
    "readable",
    "resolve",
    "say",
    "stoppable",
]
