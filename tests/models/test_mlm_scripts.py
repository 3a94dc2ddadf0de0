"""The scripts that make the masked-LM head of `model=minilm-mlm`: its text, the proof of no overlap, its training."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, MPNetConfig, MPNetForMaskedLM

from peftbench.models import mlm_head

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOKENIZER = SimpleNamespace(cls_token_id=2, sep_token_id=3, mask_token_id=4)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_wordnet_line_becomes_its_words_and_gloss(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/wordnet"
    folder.mkdir(parents=True)
    synset = '00001740 03 n 02 ice_cream 0 gelato(a) 0 001 @ 00002098 n 0000 | a frozen dessert; "she ate ice cream"'
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text(f"  1 licence | text\n{synset if part == 'noun' else ''}".rstrip() + "\n")
    assert list(script("mlm_text").wordnet(tmp_path)) == ["ice cream, gelato: a frozen dessert; she ate ice cream"]


def test_a_dictionary_entry_loses_its_pronunciation_and_sources(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/dictd"
    folder.mkdir(parents=True)
    head = 'Barber \\Bar"ber\\ (b[aum]r"b[~e]r), n. [OE. barbour.]'
    entry = f"{head}\n   One who shaves the {{beard}} of patrons.\n   [1913 Webster]"
    (folder / "gcide.dict.dz").write_bytes(gzip.compress(f"head\n\n\n{entry}\n\nX \\X\\\n   short\n".encode()))
    assert list(script("mlm_text").gcide(tmp_path)) == ["barber: One who shaves the beard of patrons."]


def test_long_paragraphs_are_cut_at_sentences_and_lose_nothing() -> None:
    text = script("mlm_text")
    paragraph = " ".join(f"This is sentence number {i} of a long paragraph." for i in range(60))
    pieces = list(text.cut(paragraph))
    assert " ".join(pieces) == paragraph
    assert len(pieces) > 3
    assert all(len(p.split()) <= text.LONGEST and p.endswith(".") for p in pieces)


def test_html_pages_give_paragraphs_without_listings() -> None:
    reader = script("mlm_text").Paragraphs()
    reader.feed(
        "<html><head><title>no</title></head><p>Good <b>day</b> &amp; luck</p><pre>x = 1</pre><li>one</li></html>"
    )
    assert reader.done == ["Good day & luck", "one"]


def test_one_block_in_fifty_is_held_out() -> None:
    text = script("mlm_text")
    chosen = [text.is_heldout("source", number) for number in range(100_000)]
    assert 0.01 < sum(chosen) / len(chosen) < 0.035
    assert all(len(set(chosen[i : i + text.BLOCK])) == 1 for i in range(0, 5000, text.BLOCK))


def test_a_shared_run_of_words_is_found_and_taken_out(tmp_path: Path) -> None:
    text, data = tmp_path / "text", tmp_path / "data"
    text.mkdir()
    data.mkdir()
    clean = "s\tone two three four five six seven nine ten eleven"
    shared = "s\tand then: One two THREE four, five six seven eight - the end"
    (text / "train.txt").write_text(f"{clean}\n{shared}\n")
    (text / "heldout.txt").write_text(f"{clean}\n")
    (data / "a.tsv").write_text("label\ttext\n1\tyes one two three four five six seven eight\n")
    command = [sys.executable, str(SCRIPTS / "check_mlm_overlap.py"), "--text", str(text), "--data", str(data)]
    first = subprocess.run([*command, "--drop"], capture_output=True, text=True)
    assert first.returncode == 1
    assert json.loads(first.stdout)["train.txt"] == {"paragraphs": 2, "sharing": 1}
    assert (text / "train.txt").read_text() == f"{clean}\n"
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0
    assert json.loads(second.stdout)["train.txt"] == {"paragraphs": 1, "sharing": 0}


@pytest.fixture(params=["bert", "mpnet"])
def tiny(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "pad_token_id": 0}
    config, network = {"bert": (BertConfig, BertForMaskedLM), "mpnet": (MPNetConfig, MPNetForMaskedLM)}[request.param]
    network(config(**sizes, num_hidden_layers=1, max_position_embeddings=140)).save_pretrained(tmp_path / "encoder")
    return tmp_path


def test_a_training_that_was_cut_off_goes_on_to_the_same_head(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = script("train_mlm_head")
    rows = torch.randint(5, 40, (24, trainer.LENGTH), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    rows[:, 0], rows[:, -1] = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id

    def train(out: str) -> dict[str, torch.Tensor]:
        options = {"out": tiny / out, "steps": 6, "batch": 4, "rank": 2, "lr": 1e-2, "seed": 1, "device": "cpu"}
        options["model"] = "tiny"
        args = SimpleNamespace(**options, checkpoint_every=2, begin=1, seen_only=False)
        args.out.mkdir(exist_ok=True)
        torch.manual_seed(args.seed)
        model = trainer.build(tiny / "encoder", rows, args.rank)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        trainer.fit(model, trained, rows, {"s": rows[:4]}, TOKENIZER, args)
        return {trainer.short(name): p.detach().clone() for name, p in trained.items()}

    expected = train("whole")
    keep = trainer.keep

    def killed(*arguments):
        keep(*arguments)
        if arguments[2] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        train("cut")
    monkeypatch.setattr(trainer, "keep", keep)
    resumed = train("cut")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert any(".lora_B." in name and tensor.abs().sum() > 0 for name, tensor in resumed.items())
    check_that_the_product_takes_it(trainer, tiny, rows, resumed)


def check_that_the_product_takes_it(trainer, tiny: Path, rows: torch.Tensor, head: dict[str, torch.Tensor]) -> None:
    """What was trained, put into a fresh network as `model.mlm_head` does, gives the training network's logits."""
    save_file({name: tensor.contiguous() for name, tensor in head.items()}, tiny / "head.safetensors")
    (tiny / "recipe.json").write_text(json.dumps({"rank": 2, "alpha": 4}))
    loaded = AutoModelForMaskedLM.from_pretrained(tiny / "encoder").eval()
    given = mlm_head.apply(loaded, str(tiny))
    names = {name for name, _ in loaded.named_parameters() if name.startswith(("cls.", "lm_head."))}
    assert {name for name in names if not name.endswith("decoder.weight")} <= given
    trained = trainer.build(tiny / "encoder", rows, 2).eval()
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if (short := trainer.short(name)) in head:
                parameter.copy_(head[short])
        places = torch.ones(2, 8, dtype=torch.bool)
        ids = rows[:2, :8].long()
        expected = trainer.logits_at(trained, ids, places).view(2, 8, -1)
        torch.testing.assert_close(loaded(ids).logits, expected, rtol=0, atol=1e-4)


def test_a_checkpoint_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    trainer = script("train_mlm_head")
    facts = {"step": "2", "seconds": "1", "curve": "[]", "steps": "6", "model": "minilm", "rank": "24"}
    save_file({"x": torch.zeros(1)}, tmp_path / trainer.CHECKPOINT, metadata=facts)
    args = SimpleNamespace(out=tmp_path, steps=6, model="mpnet", rank=24, device="cpu")
    with pytest.raises(SystemExit, match="of a run with --model minilm"):
        trainer.resume({}, None, args)


def test_special_tokens_are_never_masked(tiny: Path) -> None:
    trainer = script("train_mlm_head")
    rows = torch.tensor([[2, 7, 8, 3, 9, 3]]).repeat(200, 1)
    ids, places = trainer.masked_batch(rows, 0.5, TOKENIZER, torch.Generator().manual_seed(0))
    assert not places[:, [0, 3, 5]].any()
    assert 0.4 < places[:, [1, 2, 4]].float().mean() < 0.6
    assert (ids[places] == TOKENIZER.mask_token_id).all()
    assert torch.equal(ids[~places], rows[~places])
    _, later = trainer.masked_batch(rows, 0.5, TOKENIZER, torch.Generator().manual_seed(0), begin=2)
    assert not later[:, :2].any()


@pytest.mark.parametrize("tiny", ["bert"], indirect=True)
def test_without_lora_the_encoder_stays_as_it_is_and_the_tokens_of_the_text_are_scored_alone(tiny: Path) -> None:
    trainer = script("train_mlm_head")
    rows = torch.randint(5, 20, (8, trainer.LENGTH), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    model = trainer.build(tiny / "encoder", rows, 0)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.startswith("cls.predictions.") and "decoder.weight" not in name for name in trained)
    ids, places = trainer.masked_batch(rows.long(), 0.2, TOKENIZER, torch.Generator().manual_seed(0))
    tokens = rows.unique().long()
    whole = trainer.logits_at(model, ids, places)
    assert torch.allclose(trainer.logits_at(model, ids, places, tokens), whole[:, tokens], atol=1e-6)
