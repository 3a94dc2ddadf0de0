"""Make src/peftbench/models/tiny_tokenizer.json: python scripts/make_tiny_tokenizer.py TEXT_FILES...

A byte-level BPE of 2,000 tokens for the random models (`model=tiny-bert`, `model=arch/t5-base`). The file is part of
what names their weights, so making it anew changes their records.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TARGET = Path(__file__).parents[1] / "src/peftbench/models/tiny_tokenizer.json"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # RoBERTa's ids
SIZE = 2000


def main(files: list[str]) -> None:
    if not files:
        sys.exit(__doc__)
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = [line for name in files for line in Path(name).read_text(encoding="utf-8").splitlines()]
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.save(str(TARGET), pretty=False)


if __name__ == "__main__":
    main(sys.argv[1:])
