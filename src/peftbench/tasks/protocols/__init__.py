"""Few-shot protocols: which rows are train, dev and test, and how a model is chosen. See docs/protocols.md."""

from peftbench.tasks.protocols.draw import Draw
from peftbench.tasks.protocols.several import draw

__all__ = ["Draw", "draw"]
