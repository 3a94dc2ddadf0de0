"""Train a masked-LM head for an encoder that was released without one: `minilm-mlm`'s and `e5-small-q4-mlm`'s.

    python scripts/mlm_text.py --out build/mlm-text
    python scripts/train_mlm_head.py --text build/mlm-text --out build/mlm-head --steps 11000

The same for all-mpnet-base-v2, five times the network (--rank 8 keeps the head below 4 MB), and for E5:

    python scripts/train_mlm_head.py --model mpnet --rank 8 --text build/mlm-text --out build/mpnet-head --steps 11000

    python scripts/african_text.py --data DATA --lines DATA/more/african/unlabelled --out build/african-text
    python scripts/train_mlm_head.py --model e5-small-q4 --text build/african-text --steps 240 --rank 0 --seen-only

The vocabulary matrix is the encoder's own, frozen and tied; trained are BERT's usual transform (started at the
identity), a bias for each token (started at its log frequency) and LoRA on every linear layer of the encoder; with
--rank 0 the encoder stays as it is. Run it again and it goes on from its last checkpoint (same --model, --rank and
--steps). At the end OUT holds `head.safetensors` (fp16) and `recipe.json`; without --out that is the cache, where
model=NAME-mlm looks. On a GPU it takes minutes (--device cuda); on one CPU core MiniLM's takes about two hours, E5's
about a quarter of one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoTokenizer

from peftbench.cache import cache_dir
from peftbench.config.load import compose
from peftbench.errors import UsageError
from peftbench.models.mlm_head import LAYOUTS, layout_of
from peftbench.models.sources import locate

LENGTH = 128
MASKED = {"train": 0.2, "heldout": 0.15}
"""Share of the tokens that are predicted. All of them are shown as [MASK], as a cloze prompt shows its one."""
CHECKPOINT = "checkpoint.safetensors"
SAME = ("steps", "model", "rank")
"""What a training that goes on has to have as it began."""


def main() -> int:
    """Train, or go on training, and write the head."""
    args = arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    chosen = compose([f"model={args.model}"]).model
    checkpoint = locate(chosen)
    folder = checkpoint.folder(args.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train = blocks(args.text / "train.txt", tokenizer, chosen.prefix)
    heldout = blocks(args.text / "heldout.txt", tokenizer, chosen.prefix)
    rows = torch.cat(list(train.values()))
    args.begin = len(beginning(tokenizer, chosen.prefix))
    model = build(folder, rows, args.rank).to(args.device)
    layout = layout_of(model.config.model_type, args.model)
    if args.seen_only and layout is not LAYOUTS["bert"]:
        raise UsageError("--seen-only: for BERT encoders.")
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    print(f"{rows.numel():,} training tokens; {sum(p.numel() for p in trained.values()):,} trainable", file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    seconds, curve = fit(model, trained, rows, heldout, tokenizer, args)
    scores = evaluate(model, heldout, tokenizer, args)
    save_file(
        {short(n): p.detach().half().cpu().contiguous() for n, p in trained.items()}, args.out / "head.safetensors"
    )
    recipe = {
        "backbone": checkpoint.revision,
        "rank": args.rank,
        "alpha": 2 * args.rank,
        "lora_layers": list(layout.linear) if args.rank else [],
        "softmax": "the tokens of the training text" if args.seen_only else "the vocabulary",
        "steps": args.steps,
        "batch": args.batch,
        "length": LENGTH,
        "lr": args.lr,
        "masked": MASKED,
        "seed": args.seed,
        "train_tokens": rows.numel(),
        "seconds": round(seconds),
        "heldout": scores,
        "curve": curve,
        "overlap": overlap(args.text),
        "sources": json.loads((args.text / "sources.json").read_text(encoding="utf-8")),
    }
    (args.out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=1))
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder that mlm_text.py has written")
    parser.add_argument("--model", default="minilm", help="the encoder, as in model=NAME; a BERT")
    parser.add_argument(
        "--out", type=Path, help="folder for the checkpoint and the head; left out: NAME-mlm in the cache"
    )
    parser.add_argument("--steps", type=int, default=11000, help="optimiser steps in all")
    parser.add_argument("--batch", type=int, default=8, help=f"sequences of {LENGTH} tokens a step")
    parser.add_argument("--rank", type=int, default=24, help="of LoRA: MiniLM's has 41,472 numbers a rank; 0: none")
    parser.add_argument(
        "--seen-only", action="store_true", help="train against the tokens of the text, not all there are"
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate; 3 %% warm-up, then linear decay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--checkpoint-every", type=int, default=250, help="steps")
    args = parser.parse_args()
    args.out = args.out or cache_dir() / "models" / f"{args.model}-mlm"
    return args


def overlap(text: Path) -> dict | None:
    """What check_mlm_overlap.py found against the benchmark's texts, if it was asked (--json TEXT/overlap.json)."""
    file = text / "overlap.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def blocks(file: Path, tokenizer, prefix: str) -> dict[str, Tensor]:
    """Source -> (sequences, LENGTH) ids: its paragraphs one after the other, [SEP] between them, in full sequences that
    begin with the model's prefix."""
    start = beginning(tokenizer, prefix)
    texts = defaultdict(list)
    for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
        source, text = line.split("\t", 1)
        texts[source].append(text)
    found = {}
    for source, paragraphs in texts.items():
        stream: list[int] = []
        for ids in tokenizer(paragraphs, add_special_tokens=False)["input_ids"]:
            stream += [*ids, tokenizer.sep_token_id]
        width = LENGTH - len(start) - 1
        count = len(stream) // width
        body = torch.tensor(stream[: count * width], dtype=torch.int32).view(count, width)
        edges = torch.tensor([*start, tokenizer.sep_token_id], dtype=torch.int32).expand(count, -1)
        found[source] = torch.cat([edges[:, :-1], body, edges[:, -1:]], 1)
    return found


def beginning(tokenizer, prefix: str) -> list[int]:
    """The ids that every sequence begins with."""
    return [tokenizer.cls_token_id, *tokenizer(prefix, add_special_tokens=False)["input_ids"]]


def build(folder: Path, rows: Tensor, rank: int) -> nn.Module:
    """The encoder with a head for masked words: LoRA in the encoder (rank 0: none), the head's own parameters free."""
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    layout = layout_of(model.config.model_type, str(folder))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    vocabulary = model.config.vocab_size
    counts = torch.bincount(rows.flatten().long(), minlength=vocabulary).float() + 0.5
    with torch.no_grad():
        model.get_submodule(layout.transform).weight.copy_(torch.eye(model.config.hidden_size))
        model.get_submodule(layout.transform).bias.zero_()
        model.get_parameter(layout.bias).copy_((counts / counts.sum()).log() + 8)
    model.requires_grad_(False)
    if rank:
        layers = rf"{layout.encoder}\.encoder\.layer\.\d+\..*({'|'.join(layout.linear)})"
        model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers))
    for name, parameter in model.named_parameters():
        if f".{layout.head}." in f".{name}" and "decoder.weight" not in name:
            parameter.requires_grad = True
    return model


def short(name: str) -> str:
    """A trained parameter's name without what peft put around it."""
    return name.removeprefix("base_model.model.").replace(".default", "")


def masked_batch(
    rows: Tensor, share: float, tokenizer, generator: torch.Generator, begin: int = 0
) -> tuple[Tensor, Tensor]:
    """(batch, n) ids with [MASK]s, and the (batch, n) places to predict; special tokens are never chosen, nor what
    stands in front of place `begin`."""
    special = (rows == tokenizer.cls_token_id) | (rows == tokenizer.sep_token_id)
    special[:, :begin] = True
    chosen = (torch.rand(rows.shape, generator=generator) < share) & ~special
    return rows.masked_fill(chosen, tokenizer.mask_token_id), chosen


def logits_at(model: nn.Module, ids: Tensor, places: Tensor, tokens: Tensor | None = None) -> Tensor:
    """(places, vocabulary) logits, computed at the masked places alone; with `tokens`, of these alone."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layout = layout_of(base.config.model_type, "")
    encoder = base.get_submodule(layout.encoder)
    hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    if tokens is None:
        return base.get_submodule(layout.head)(hidden[places])
    head = base.cls.predictions
    return F.linear(head.transform(hidden[places]), head.decoder.weight[tokens], head.bias[tokens])


def fit(model, trained, rows, heldout, tokenizer, args) -> tuple[float, list]:
    """All steps; returns seconds of training and [step, held-out accuracy] pairs."""
    optimizer = torch.optim.AdamW(trained.values(), lr=args.lr, weight_decay=0.0)
    begun, seconds, curve = resume(trained, optimizer, args)
    tokens = rows.unique().long().to(args.device) if args.seen_only else None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, refresh_per_second=1) as bar:
        shown = bar.add_task("train", total=args.steps, completed=begun)
        losses: list[float] = []
        for step in range(begun, args.steps):
            clock = time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate(step, args.steps)
            losses.append(
                one_step(model, optimizer, trained, batch_of(rows, step, args), step, tokenizer, args, tokens)
            )
            seconds += time.process_time() - clock
            bar.update(shown, advance=1, description=f"loss {sum(losses[-100:]) / len(losses[-100:]):.3f}")
            if (step + 1) % args.checkpoint_every == 0:
                if (step + 1) % (4 * args.checkpoint_every) == 0:
                    accuracy = evaluate(model, heldout, tokenizer, args, limit=24)["all"]["accuracy"]
                    curve.append([step + 1, round(accuracy, 2)])
                    print(f"step {step + 1}: held-out accuracy {accuracy:.2f}, {seconds:.0f} CPU s", file=sys.stderr)
                keep(trained, optimizer, step + 1, seconds, curve, args)
    return seconds, curve


def one_step(model, optimizer, trained, rows, step, tokenizer, args, tokens: Tensor | None) -> float:
    """One optimiser step; its mean loss."""
    model.train()
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    ids, places = masked_batch(rows.long(), MASKED["train"], tokenizer, generator, args.begin)
    with torch.autocast(args.device, dtype=torch.bfloat16):
        logits = logits_at(model, ids.to(args.device), places.to(args.device), tokens)
    gold = rows.long()[places].to(args.device)
    loss = F.cross_entropy(logits.float(), gold if tokens is None else torch.searchsorted(tokens, gold))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
    optimizer.step()
    return float(loss.detach())


def batch_of(rows: Tensor, step: int, args) -> Tensor:
    """Rows of a step: each epoch its own order, the same after a resume."""
    per_epoch = len(rows) // args.batch
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(args.seed + 7919 * epoch))
    return rows[order[place * args.batch : (place + 1) * args.batch]]


def rate(step: int, steps: int) -> float:
    """Factor of the learning rate."""
    warmup = max(1, round(0.03 * steps))
    return min((step + 1) / warmup, (steps - step) / (steps - warmup))


@torch.no_grad()
def evaluate(model, heldout, tokenizer, args, limit: int | None = None) -> dict[str, dict[str, float]]:
    """Masked accuracy (%) and loss by source, and over all masked tokens; the masks are always the same."""
    model.eval()
    generator, sums = torch.Generator().manual_seed(0), {}
    for source, rows in heldout.items():
        rows = rows[: max(1, round(limit * len(rows) / 1000))].long() if limit else rows.long()
        right, loss, count = 0, 0.0, 0
        for part in rows.split(32):
            ids, places = masked_batch(part, MASKED["heldout"], tokenizer, generator, args.begin)
            gold = part[places].to(args.device)
            with torch.autocast(args.device, dtype=torch.bfloat16):
                logits = logits_at(model, ids.to(args.device), places.to(args.device)).float()
            right += int((logits.argmax(1) == gold).sum())
            loss += float(F.cross_entropy(logits, gold, reduction="sum"))
            count += len(gold)
        sums[source] = Counter(right=right, loss=loss, count=count)
    sums["all"] = sum(sums.values(), Counter())
    return {
        source: {
            "accuracy": round(100 * s["right"] / s["count"], 3),
            "loss": round(s["loss"] / s["count"], 4),
            "perplexity": round(math.exp(s["loss"] / s["count"]), 2),
            "tokens": s["count"],
        }
        for source, s in sums.items()
    }


def keep(trained, optimizer, step: int, seconds: float, curve: list, args) -> None:
    """A checkpoint that replaces the one before it in one move."""
    tensors = {f"value/{n}": p.detach().cpu() for n, p in trained.items()}
    for name, parameter in trained.items():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}/{name}"] = optimizer.state[parameter][key].cpu()
    facts = {"step": str(step), "seconds": str(seconds), "curve": json.dumps(curve)}
    facts |= {name: str(getattr(args, name)) for name in SAME}
    fresh = args.out / f"{CHECKPOINT}.new"
    save_file(tensors, fresh, metadata=facts)
    fresh.replace(args.out / CHECKPOINT)


def resume(trained, optimizer, args) -> tuple[int, float, list]:
    """(steps done, seconds spent, curve), with the checkpoint's values in place."""
    from safetensors import safe_open

    file = args.out / CHECKPOINT
    if not file.exists():
        return 0, 0.0, []
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    for name in SAME:
        if (before := facts.get(name, str(getattr(args, name)))) != str(getattr(args, name)):
            raise SystemExit(f"{file} is of a run with --{name} {before}; give that, or another --out.")
    tensors, step = load_file(file), int(facts["step"])
    for name, parameter in trained.items():
        parameter.data.copy_(tensors[f"value/{name}"])
        moments = {key: tensors[f"{key}/{name}"].to(args.device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step, float(facts["seconds"]), json.loads(facts["curve"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(str(error))
