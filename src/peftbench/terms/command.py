"""`peftbench terms`: writes a file for `method.formulation.words`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from peftbench.config.load import compose
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.options import OptionParser, whole

DESCRIPTION = """\
Retrieves label words for KPT and SciPrompt from a list of terms, and writes a file for method.formulation.words=FILE. A
bi-encoder (model=minilm unless you say otherwise) compares each label's name with each term.
"""
EXAMPLE = """\
example:
  peftbench terms task=sciprompt task.subset=arxiv5 --from terms.txt --out words.yaml
  peftbench method=sciprompt model=minilm-mlm task=sciprompt task.subset=arxiv5 method.formulation.words=words.yaml
"""


def terms_command(args: list[str]) -> int:
    """The command; returns 0.

    Raises:
        UsageError: the task, the model or a file is wrong.
    """
    options = parser().parse_intermixed_args(args)
    if options.out.exists():
        raise UsageError(f"--out {options.out}: is there already, and may hold your edits. Remove it or name another.")
    if options.out.suffix not in (".yaml", ".yml", ".json"):
        raise UsageError(f"--out {options.out}: has to end in .yaml or .json.")
    cfg = compose(options.overrides)
    words, source = make_words(cfg, options)
    write_atomic(options.out, as_text(words, options, source).encode("utf-8"))
    counts = sorted(len(own) for own in words.values())
    print(f"{options.out}: {sum(counts)} words for {len(words)} labels, {counts[0]} to {counts[-1]} a label")
    if counts[0] == 1:
        alone = [label for label, own in words.items() if len(own) == 1]
        print(f"only their own name: {', '.join(alone)}. A lower --threshold or a higher --top may find more.")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = OptionParser("terms", DESCRIPTION, EXAMPLE, out_dir=False, json=False)
    made.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="task=..., task.subset=..., model=..., data_dir=..."
    )
    made.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="terms, one a line")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the words go: .yaml or .json")
    made.add_argument("--top", type=whole(), default=100, help="nearest terms looked at for each label (100)")
    made.add_argument(
        "--threshold", type=float, default=0.5, help="a term's cosine with the label's name is above (0.5)"
    )
    made.add_argument("--cross-encoder", metavar="NAME", help="a model of contradiction, on the hub or in a folder")
    made.add_argument("--cross-threshold", type=float, default=0.9, help="a term's contradiction is below (0.9)")
    return made


def make_words(cfg: RunConfig, options: argparse.Namespace) -> tuple[dict[str, dict[str, float]], str]:
    """The words of each label of the config's task, and what model they come from."""
    import torch

    from peftbench.formulations.bi_encoder import BiEncoder
    from peftbench.models import load_backbone
    from peftbench.tasks import data_dir, load_task
    from peftbench.terms.encoders import CrossEncoder
    from peftbench.terms.retrieve import read_terms, retrieve

    data = load_task(cfg.task, data_dir(cfg))
    if data.problem != "classification":
        raise UsageError(f"task={data.name}: label words are for tasks with labels.")
    names = {label: data.label_words.get(label, label) for label in data.labels}
    device = torch.device("cuda" if cfg.trainer.device != "cpu" and torch.cuda.is_available() else "cpu")
    terms = read_terms(options.source)
    backbone = load_backbone(cfg.model, "features", dropout=0.0)
    contrast = CrossEncoder(options.cross_encoder, device) if options.cross_encoder else None
    words = retrieve(
        names,
        terms,
        BiEncoder(backbone, device),
        top=options.top,
        threshold=options.threshold,
        contrast=contrast,
        contrast_threshold=options.cross_threshold,
    )
    return words, f"{backbone.name} {backbone.revision}"


def as_text(words: Mapping[str, Mapping[str, float]], options: argparse.Namespace, source: str) -> str:
    """The file: JSON, or YAML that says how it was made."""
    if options.out.suffix == ".json":
        return json.dumps(words, ensure_ascii=False, indent=1) + "\n"
    made = [
        f"# peftbench terms {' '.join(options.overrides)} --from {options.source.name} --out {options.out.name}",
        f"# --top {options.top} --threshold {options.threshold}"
        + (f" --cross-encoder {options.cross_encoder} --cross-threshold {options.cross_threshold}"
           if options.cross_encoder else ""),
        f"# bi-encoder: {source}. Label -> word: score; edit as you like.",
    ]  # fmt: skip
    return "\n".join(made) + "\n" + yaml.safe_dump(dict(words), allow_unicode=True, sort_keys=False, width=120)
