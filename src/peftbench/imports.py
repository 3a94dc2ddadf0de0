"""How a process imports what a run needs: without garbage collection, which takes long and finds nothing there."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARY = 300
"""As many new modules are a large library's, whose objects are worth keeping from the collector."""

_ours = False


def process_is_ours() -> None:
    """Said by the commands: nobody else's objects are in this process, so those that an import leaves may be frozen."""
    global _ours
    _ours = True


@contextmanager
def importing() -> Iterator[None]:
    """No garbage is collected in the block. If a large library came in and the process is ours, what there is behind
    it is frozen (`gc.freeze`): it stays anyway, and no collection after this walks through a million objects again."""
    collects, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if _ours and len(sys.modules) > known + LIBRARY:
            gc.freeze()
        if collects:
            gc.enable()
