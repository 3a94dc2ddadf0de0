"""`peftbench export RUN_ID DIR`: what a run has trained, for transformers and peft without peftbench."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.options import OptionParser
from peftbench.records.find import existing_store

_EPILOG = """\
Example: peftbench export 0123456789abcdef my-model --merge
DIR gets a README with the run's task, draw, score and costs, the tokenizer, the adapter or (--merge, and where the
backbone's own weights were trained) the whole model, the head, and inference.py: a few lines that give the logits.
What is written is run once and compared with the run's model; what would answer in another way is refused.
"""


def export_command(argv: Sequence[str]) -> int:
    """Run `peftbench export ARGV`; returns the exit code. Raises UsageError for a mistake."""
    from peftbench.api import load_run

    parser = OptionParser("export", "Writes a folder that plain transformers and peft load.", _EPILOG)
    parser.add_argument("run_id", metavar="RUN_ID", help="as `peftbench leaderboard` shows it, or its beginning")
    parser.add_argument("folder", metavar="DIR", help="is made; must not hold anything yet")
    parser.add_argument("--merge", action="store_true", help="put the adapter into the backbone's weights")
    parser.add_argument("--task", metavar="NAME", help="of a sequence of tasks, the one that is exported")
    options = parser.parse(argv)
    existing_store(options.out_dir)
    run = load_run(options.run_id, options.out_dir, options.task)
    folder = run.export(options.folder, merge=options.merge)
    print(f"{folder}: README.md says what it is; try `python {folder / 'inference.py'}`")
    return 0
