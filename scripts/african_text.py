"""Gather the unlabelled text that the masked-LM head of `model=e5-small-q4-mlm` is trained on, from data of your own.

    python scripts/african_text.py --data DATA --lines DATA/more/african/unlabelled --out build/african-text
    python scripts/train_mlm_head.py --model e5-small-q4 --text build/african-text --steps 240 --rank 0 --seen-only

Sources: the articles of every language's MasakhaNEWS *train* file (their labels are not read), and every `LANG.txt`
with one sentence a line in the folder --lines. Sentences that share 30 characters in a row with any file below DATA
whose name says dev, test or validation are dropped and counted. Of each language at most --characters are taken, in an
order that a hash of the text decides; the documents that `method=madx` holds out are not among them: they are
`heldout.txt`.

The news texts' licences are unclear, so nothing of this is shipped: the head is for your own cache.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from peftbench.models.hashing import content_hash
from peftbench.tasks.readers import read_quoted_tsv
from peftbench.tasks.unlabelled import RUN, Document, document, is_held_out, limited, read_lines, size, unshared

EVALUATION = re.compile(r"(^|[/_.-])(dev|test|val)[a-z]*([/_.-])", re.IGNORECASE)
SUFFIXES = {".tsv", ".csv", ".txt", ".json", ".jsonl", ".xml"}


def main() -> int:
    """Write `train.txt`, `heldout.txt` (a language, a tab and a document a line), `sources.json` and `overlap.json`."""
    args = arguments()
    chosen: list[tuple[str, str, Document]] = []
    sources = {}
    for language, (documents, used) in sorted(pools(args).items()):
        held = limited([found for found in documents if is_held_out(found)], args.characters // 20)
        train = limited([found for found in documents if not is_held_out(found)], args.characters)
        chosen += [("heldout", language, found) for found in held] + [("train", language, found) for found in train]
        sources[language] = {"characters": size(train), "files": used}
    files = [f for f in sorted(args.data.rglob("*")) if f.suffix in SUFFIXES and evaluates(f.relative_to(args.data))]
    kept = unshared([found for _, _, found in chosen], readable(files))
    facts: dict = {"characters_in_a_row": RUN, "evaluation_files": len(files)}
    for (part, language, found), left in zip(chosen, kept, strict=True):
        counts = facts.setdefault(part, {}).setdefault(language, {"sentences": 0, "dropped": 0})
        counts["sentences"] += len(found)
        counts["dropped"] += len(found) - len(left)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("train", "heldout"):
        texts = zip(chosen, kept, strict=True)
        lines = [f"{language}\t{' '.join(left)}\n" for (part, language, _), left in texts if left and part == name]
        (args.out / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    for name, told in {"sources": sources, "overlap": facts}.items():
        (args.out / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=1), file=sys.stderr)
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data_dir: holds masakhanews/LANG/train.tsv")
    parser.add_argument("--lines", type=Path, help="folder with LANG.txt, one sentence a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=150_000, help="at most so many of each language")
    return parser.parse_args()


def evaluates(file: Path) -> bool:
    """Whether a path says that the file is for evaluation."""
    return EVALUATION.search(f"/{file.as_posix()}") is not None


def readable(files: list[Path]) -> Iterator[str]:
    """Their texts, columns and rows one behind the other, the marks of JSON and CSV resolved."""
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        yield text.replace('""', '"').replace('\\"', '"').replace("\\n", " ")


def pools(args: argparse.Namespace) -> dict[str, tuple[list[Document], dict[str, str]]]:
    """Language -> its documents, and the SHA-256 of the files that they are from."""
    found: dict[str, tuple[list[Document], dict[str, str]]] = {}
    for path in sorted(args.data.glob("masakhanews/*/train.tsv")):
        records = read_quoted_tsv(path, require=("headline", "text"))
        texts = [document(f"{record['headline']} {record['text']}") for _, record in records]
        found[path.parent.name] = (texts, {f"masakhanews/{path.parent.name}/train.tsv": content_hash([path])})
    for path in sorted(args.lines.glob("*.txt")) if args.lines else ():
        documents, used = found.get(path.stem, ([], {}))
        found[path.stem] = ([*read_lines(path), *documents], {**used, path.name: content_hash([path])})
    return found


if __name__ == "__main__":
    sys.exit(main())
