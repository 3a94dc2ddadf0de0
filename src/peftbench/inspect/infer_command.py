"""`peftbench infer RUN_ID method/inference=NAME`: test answered another way by what a run has trained."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.options import OptionParser
from peftbench.records.find import existing_store

_EPILOG = """\
Example: peftbench infer 0123456789abcdef method/inference=ngram_bias method.inference.weight=0.2
Nothing is trained again. The answers are a run of their own, filed beside the first, whose record names it; it has the
id of the command that would train and draw answers so. docs/inference.md explains the inferences that there are.
"""


def infer_command(argv: Sequence[str]) -> int:
    """Run `peftbench infer ARGV`; returns the exit code. A mistake is a UsageError, before a model is loaded."""
    from peftbench.api import RunFailed, load_run
    from peftbench.views.summary import print_summary

    parser = OptionParser("infer", "Answers test another way with what a run has trained.", _EPILOG, json=False)
    parser.add_argument("run_id", metavar="RUN_ID", help="as `peftbench leaderboard` shows it, or its beginning")
    parser.add_argument("setting", nargs="+", metavar="KEY=VALUE", help="method/inference=NAME and its options")
    options = parser.parse(argv)
    existing_store(options.out_dir)
    parent = load_run(options.run_id, options.out_dir)
    try:
        run = parent.infer(*options.setting, verbose=True)
    except RunFailed as error:
        print_summary(error.record, options.out_dir, True)
        return 1
    print_summary(run.record, options.out_dir, run.record.inference.get("parent") == parent.run_id)
    return 0
