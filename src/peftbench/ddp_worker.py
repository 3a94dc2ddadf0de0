"""One process of several that train together: `python -m peftbench.ddp_worker CONFIG.json`.

Started by `peftbench.training.launch`; `torchrun` can start it just as well.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from peftbench.errors import UsageError
from peftbench.imports import process_is_ours
from peftbench.training.launch import GRACE_SECONDS, LEASH


def main(argv: list[str]) -> int:
    """Run the resolved config in `argv[0]` (JSON) as a member of the world that the environment names."""
    hold_leash()
    config = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    from peftbench.config.load import from_plain
    from peftbench.runner import run

    try:
        record, _ = run(from_plain(config))
        return 0 if record is None or record.status == "done" else 1
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        return getattr(error, "code", 128 + signal.SIGINT)


def hold_leash() -> None:
    """Leave when the launcher is gone (kill -9), so that no orphan goes on writing beside a later run: with a
    checkpoint if this process can still be talked to, without one if it waits for another that is gone as well.

    The system's own alarm ends it then, not this thread, which may never get the interpreter's lock again: gloo's
    process group holds it while its destructor waits for a thread that wants it too (seen when the other rank is gone).
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)  # nobody handles SIGALRM: it kills
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.get(LEASH):
        threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    process_is_ours()
    sys.exit(main(sys.argv[1:]))
