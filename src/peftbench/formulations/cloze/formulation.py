"""`cloze`: the row is rewritten as a text with one masked word, and each label's words are scored at the mask.

Pattern-exploiting training (Schick and Schuetze 2021, arXiv 2001.07676, section 3.1) and its relatives. The loss is
that of the softmax over the class scores, never over the vocabulary: see `cloze_answers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError, did_you_mean
from peftbench.formulations import mlm_head
from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.formulations.calibrated import Calibrated
from peftbench.formulations.cloze import ClozeConfig, snippet
from peftbench.formulations.cloze_answers import answer_of
from peftbench.formulations.label_words import TokenisedWords, choose_words, tokenise_words
from peftbench.formulations.patterns import Pattern, PatternEncoder, single_mask
from peftbench.formulations.snippets import Network
from peftbench.formulations.text import pad_inputs
from peftbench.formulations.verbalizers import KnowledgeableVerbalizer, MeanVerbalizer, SoftVerbalizer, Verbalizer
from peftbench.models.base import Backbone
from peftbench.tasks.base import PatternSet, Row, Target, TaskData


class ClozeFormulation(Calibrated, Formulation):
    """Class scores (batch, classes) are read from the (batch, vocabulary) scores at the one mask of each item."""

    purpose = "mlm"
    sentinel: ClassVar[bool] = False
    """Whether it is an encoder-decoder that fills the gap."""

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: ClozeConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        if cfg.demonstrations_nearest < 1 and not cfg.demonstrations:
            raise UsageError(
                f"method.formulation.demonstrations_nearest={cfg.demonstrations_nearest}: nothing is shown. Set "
                "method.formulation.demonstrations=16, or leave it at 1."
            )
        self.cfg = cfg
        self.set = pattern_set(task, cfg)
        self.encoder = PatternEncoder(
            Pattern(choose_template(self.set, cfg), self.set.shorten),
            self.tokenizer,
            max_length,
            mask=self.mask_token(backbone),
            prefix=backbone.prefix,
        )
        self.answer = answer_of(task)
        self.words = choose_words(task, self.set, cfg)
        words = tokenise_words(self.tokenizer, self.words, cfg.split_words)
        self.word_ids, self.notes = words.ids, words.notes
        self.verbalizer = build_verbalizer(words, cfg, backbone)

    def portable(self, cfg: FormulationConfig) -> tuple[FormulationConfig, TaskData]:
        """Its own pattern set, and long lists of words, or those of a user's file, as the task's terms."""
        assert isinstance(cfg, ClozeConfig)
        task = replace(super().portable(cfg)[1], cloze={self.set.name: self.set})
        if not self.words.lenient:
            return cfg, task
        pairs = {x: tuple(zip(w, self.words.scores[x], strict=True)) for x, w in self.words.words.items()}
        return replace(cfg, words="terms", words_sha256=None), replace(task, terms=pairs)

    def text_names(self, pairs: bool) -> list[str]:
        return list(dict.fromkeys(self.encoder.pattern.names))

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        trained = self.cfg.train_head and network.base is not None
        return snippet.code(
            network,
            self.task,
            self.text_names(pairs),
            self.encoder,
            self.word_ids,
            self.verbalizer,
            virtual_tokens=self.virtual_tokens,
            sentinel=self.sentinel,
            head=mlm_head.prefix(model) if trained else None,
        )

    def mask_token(self, backbone: Backbone) -> str:
        """The text that stands for the mask."""
        if self.tokenizer.mask_token is None:
            raise UsageError(
                f"model={backbone.name}: its tokenizer has no mask. Use a masked LM, e.g. model=minilm-mlm."
            )
        return str(self.tokenizer.mask_token)

    def first_word(self, target: Target | None) -> str:
        """The word that is written where a target is to be read: in demonstrations, and in PCP's corpus."""
        return self.words.words[self.answer.label_of(target)][0]

    def attach(self, model: nn.Module) -> None:
        if isinstance(self.verbalizer, SoftVerbalizer):
            self.verbalizer.start(mlm_head.output_matrix(model))
        for parameter in self.own_parameters(model).values():
            parameter.requires_grad_(True)

    def own_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        head = mlm_head.own_parameters(model) if self.cfg.train_head else {}
        return {**super().own_parameters(model), **head}

    def label_tokens(self) -> dict[str, list[str]]:
        """The tokens of each label's first word; none for long lists of words, where no single one matters."""
        if not isinstance(self.verbalizer, MeanVerbalizer):
            return {}
        return {label: list(self.tokenizer.convert_ids_to_tokens(own[0])) for label, own in self.word_ids.items()}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        return [self.encode_one(row) for row in rows]

    def encode_one(self, row: Row) -> Encoded:
        """One row; its mask stands at `data["mask"]`."""
        ids, cut = self.encoder.encode(row)
        mask, target = single_mask(ids, self.encoder.mask_id, row.id), self.answer.encode(row.target)
        data = {"input_ids": ids, "mask": mask, "target": target}
        return Encoded(row.id, len(ids), 1.0, data, cut)

    def collate(self, items: Sequence[Encoded]) -> Batch:
        ids = [item.data["input_ids"] for item in items]
        batch: Batch = {"ids": [item.id for item in items], **pad_inputs(ids, self.tokenizer, "right")}
        batch["places"] = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for row, item in enumerate(items):
            batch["places"][row, item.data["mask"]] = True
        if items and all(item.data["target"] is not None for item in items):
            batch["targets"] = torch.tensor([item.data["target"] for item in items])
        return batch

    def word_scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, vocabulary) scores at the masks, fp32."""
        with mlm_head.at_places(model, batch["places"], self.virtual_tokens):
            scores: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return scores.float()

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, classes)."""
        if not isinstance(self.verbalizer, SoftVerbalizer):
            return self.verbalizer(self.word_scores(model, batch))
        with mlm_head.states_before_output(model) as states:
            self.word_scores(model, batch)
        return self.verbalizer(states[-1])

    @torch.no_grad()
    def calibrate(self, model: nn.Module, scores: Tensor) -> int:
        """Take the prior from (inputs, vocabulary) scores at the mask, and remove unlikely words (`drop_unlikely`).

        Of the soft verbalizer only the words change from whose vectors it starts, as in the released code.

        Returns:
            How many label words were removed.
        """
        drop, verbalizer = self.cfg.drop_unlikely, self.verbalizer
        if isinstance(verbalizer, KnowledgeableVerbalizer):
            return verbalizer.calibrate(scores, drop)
        assert isinstance(verbalizer, SoftVerbalizer), "a mean verbalizer has no prior"
        kept = verbalizer.words.likely(scores.mean(0), drop)
        verbalizer.start(mlm_head.output_matrix(model), kept)
        return int(verbalizer.words.mask.sum() - kept.sum())

    def answer_count(self) -> int:
        return sum(map(len, self.word_ids.values()))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.loss_of(self.logits(model, batch), batch)

    def loss_of(self, logits: Tensor, batch: Batch) -> Tensor:
        """Scalar: the sum over the batch."""
        return self.answer.loss(logits, batch["targets"])

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        logits = self.logits(model, batch).cpu()
        return [self.answer.read(id_, row) for id_, row in zip(batch["ids"], logits, strict=True)]


def build_verbalizer(words: TokenisedWords, cfg: ClozeConfig, backbone: Backbone) -> Verbalizer:
    """The verbalizer that the config names. A manual one with calibration or learned weights is a knowledgeable one:
    without either the two give the same probabilities, as means of logarithms and of scores differ by a constant.

    Raises:
        UsageError: an option would have no effect.
    """
    ids, calibrated = list(words.ids.values()), cfg.calibration != "none"
    first = cfg.split_words == "first"
    if cfg.drop_unlikely and not calibrated:
        raise UsageError(
            f"method.formulation.drop_unlikely={cfg.drop_unlikely}: without calibration nothing says what is unlikely. "
            "Set method.formulation.calibration=prior, or drop_unlikely=0."
        )
    if cfg.learn_weights and cfg.verbalizer == "soft":
        raise UsageError(
            "method.formulation.learn_weights=true: the soft verbalizer has a trained map and no weights of words. Set "
            "learn_weights=false."
        )
    scores = list(words.scores.values())
    if cfg.verbalizer == "soft":
        return SoftVerbalizer(ids, scores, mlm_head.output_matrix(backbone.model).shape[1])
    if cfg.verbalizer == "manual" and not calibrated and not cfg.learn_weights:
        return MeanVerbalizer(ids, first)
    weighted = scores if cfg.verbalizer == "weighted" else None
    return KnowledgeableVerbalizer(ids, weighted, learn=cfg.learn_weights, calibrated=calibrated, first=first)


def pattern_set(task: TaskData, cfg: ClozeConfig) -> PatternSet:
    """The task's pattern set that the config names; a template of the user's needs none.

    Raises:
        UsageError: the task has no patterns, or none of that name.
    """
    if cfg.patterns != "auto" and cfg.patterns not in task.cloze:
        raise UsageError(
            f"method.formulation.patterns={cfg.patterns}: task {task.name} has no such pattern set. "
            f"{did_you_mean(cfg.patterns, task.cloze)}"
        )
    if task.cloze:
        auto = next(name for name in (*cfg.prefer, *task.cloze) if name in task.cloze)
        return task.cloze[auto if cfg.patterns == "auto" else cfg.patterns]
    if cfg.template is None:
        raise UsageError(
            f"task {task.name} has no cloze patterns. Give one: \"method.formulation.template='{{text}} Topic: "
            "{mask}.'\", or add a `cloze` section to the task's YAML (docs/adding-a-task.md)."
        )
    return PatternSet("template", (), {label: (task.label_words.get(label, label),) for label in task.cloze_labels})


def choose_template(patterns: PatternSet, cfg: ClozeConfig) -> str:
    """The text of the pattern that the config names."""
    if cfg.template is not None:
        return cfg.template
    if cfg.pattern >= len(patterns.patterns):
        raise UsageError(
            f"method.formulation.pattern={cfg.pattern}: the set `{patterns.name}` has {len(patterns.patterns)} "
            f"patterns, 0 to {len(patterns.patterns) - 1}."
        )
    return patterns.patterns[cfg.pattern]
