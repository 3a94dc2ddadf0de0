"""`generate`: the model writes the label as text. What it writes that is no label counts as wrong, and is counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from peftbench.config.schema import FormulationConfig, with_options
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Prediction
from peftbench.formulations.generate import GenerateConfig, snippet
from peftbench.formulations.generate.decoding import Draw, OnlyFrom, OnlyTuples, guided_tokenizer
from peftbench.formulations.in_words import TextFormulation
from peftbench.formulations.reading import normalise, read_table
from peftbench.formulations.scoring import can_pack, network_of
from peftbench.formulations.shared_prefix import read_shared
from peftbench.formulations.snippets import Network
from peftbench.formulations.trie import Trie
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.problems import kinds
from peftbench.tasks.tuple_formats import grammar_of


class GenerateFormulation(TextFormulation):
    """Generation, read back as a label, or by the parser of the task's kind: greedy, or sampled."""

    plain_prompts = True

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.label_of = read_table(self.texts)
        self._shares = True  # until a cache turns out to begin with something else than the prompt
        self.more_processors: Callable[[Batch], Iterable[LogitsProcessor]] = lambda batch: ()
        """Further processors of the logits of a batch, put in front of its own while an inference is at work."""
        self.options = self.how = with_options(cfg, GenerateConfig)
        self.answer_length = self.how.answer_tokens or self.answer_length
        if self.how.constrain == "labels":
            if not self.label_ids:
                raise UsageError("method.formulation.constrain=labels: the task has no labels. Set constrain=none.")
            self.notes.append("answers were constrained to the labels: none can be invalid")
        if self.how.constrain == "tuples":
            if not task.tuple_form.elements and task.mixture is None:
                raise UsageError(
                    "method.formulation.constrain=tuples: the task asks for no tuples. Set constrain=none."
                )
            self.guided = guided_tokenizer(self.tokenizer, self.eos)
            self.notes.append("answers were constrained to tuples of words of the text (llguidance)")
        if self.how.sample:
            self.notes.append(f"answers were sampled (temperature {self.how.temperature}, seed {self.how.sample_seed})")
        if self.how.samples > 1:
            self._check_pooled()

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        return snippet.written(
            network, self.task, self.exported_prompt(pairs), self.how, self.label_of, self.answer_length
        )

    def _check_pooled(self) -> None:
        key = f"method.formulation.samples={self.how.samples}"
        if not self.how.sample:
            raise UsageError(f"{key}: the likeliest answer is the same each time. Set sample=true, too.")
        if self.task.kind.pool is None:
            able = ", ".join(name for name, other in kinds().items() if other.pool)
            raise UsageError(f"{key}: several {self.task.problem} answers do not make one. Those of these do: {able}.")
        self.notes.append(f"{self.how.samples} sampled answers a row made one")

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        """One answer a row, or one that is pooled from `samples` (`Problem.pool`), whose texts are kept as JSON."""
        drawn = [self.path(model, batch, number) for number in range(self.how.samples)]
        if len(drawn) == 1:
            return drawn[0]
        pool = self.task.kind.pool
        assert pool is not None
        return [
            Prediction(i, pool([p.label for p in own]), answer=json.dumps([p.answer for p in own], ensure_ascii=False))
            for i, own in zip(batch["ids"], zip(*drawn, strict=True), strict=True)
        ]

    def path(self, model: nn.Module, batch: Batch, number: int = 0) -> list[Prediction]:
        """What is written the `number`-th time, read; where answers are sampled each time has draws of its own."""
        tasks = [self.task.part(domain) for domain in batch["domains"]]
        answers = zip(batch["ids"], self._written(model, batch, number), tasks, strict=True)
        return [Prediction(i, self.read(text, task), answer=text) for i, text, task in answers]

    def _written(self, model: nn.Module, batch: Batch, number: int) -> list[str]:
        """What is written behind each prompt, the `number`-th time; each time has draws of its own."""
        names = [f"{i}#{number}" if number else i for i in batch["ids"]]
        ids = self.generated(model, {**batch, "ids": names})
        return list(self.tokenizer.batch_decode(ids, skip_special_tokens=True))

    def generated(self, model: nn.Module, batch: Batch, how: GenerateConfig | None = None) -> Tensor:
        """(batch, new) ids of what is written behind each prompt, padded on the right; draws follow from the batch's
        ids. `how`: chosen in another way than the formulation's own."""
        prompts = self._prompts_begun(model, batch)
        ids = model.generate(  # type: ignore[operator]
            **prompts,
            max_new_tokens=self.answer_length,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.eos,
            logits_processor=self._processors(batch, how or self.how),
        )
        return ids[:, 1:] if self.encoder_decoder else new_tokens(ids, prompts["input_ids"])

    def _prompts_begun(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        """What generation starts from: the prompts, and the cache of what all of them begin with, if that is shared. A
        network with something of the tuner's in front of its cache is not asked a second time."""
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if self.encoder_decoder or not self._shares or not self.takes_cache or self.pass_answer_starts:
            return given
        network = network_of(model)
        if self.virtual_tokens or not can_pack(network, batch["input_ids"].shape[1] + self.answer_length):
            return given
        if (shared := read_shared(model, network, batch)) is None:
            return given
        self._shares = shared.cache.get_seq_length() == shared.length
        if not self._shares:
            return given
        return {**shared.in_front(shared.rest), "past_key_values": shared.repeated(len(batch["ids"]))}

    def answer_facts(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Of answers that are no labels: mean tokens, their end counted, of what is written (`output_tokens`), of the
        right answers in this form (`target_tokens`) and in the usual, whole one (`full_target_tokens`), and the first
        two as shares of the last."""
        write = self.task.kind.write
        if write is None or self.task.labels or self.task.score_range or self.how.samples > 1 or not rows:
            return {}
        whole = [write(row.target, self.task.part(row.domain), "words") for row in rows]
        output, target, full = (
            sum(len(self.answer_ids(text)) for text in texts) / len(rows)
            for texts in ([(p.answer or "").strip() for p in predictions], map(self.row_answer, rows), whole)
        )
        return {
            "output_tokens": output,
            "target_tokens": target,
            "full_target_tokens": full,
            "output_length_ratio": output / full,
            "target_length_ratio": target / full,
        }

    def _processors(self, batch: Batch, how: GenerateConfig) -> LogitsProcessorList:
        """Of the logits, before the likeliest token is taken."""
        found = LogitsProcessorList(self.more_processors(batch))
        if how.constrain == "tuples":
            found.append(OnlyTuples(self.guided, [*map(self._grammar, batch["texts"], batch["domains"])], self.eos))
        if how.constrain == "labels":
            found.append(OnlyFrom(Trie(list(self.label_ids.values())), self.eos))
        if how.sample and how.top_p < 1:
            found.append(TopPLogitsWarper(how.top_p))
        if how.sample:
            found.append(Draw(batch["ids"], how.sample_seed, how.temperature))
        return found

    def _grammar(self, text: str, domain: str | None) -> str:
        return grammar_of(self.options.answers, self.task.part(domain).tuple_form, text, self.space)

    def read(self, text: str, task: TaskData) -> Any:
        """What the text says for a row of the task, None if nothing: a label, or what the kind's parser makes of it."""
        if (parse := task.kind.parse) is not None:
            return parse(text, task, self.options.answers)
        return self.label_of.get(text.strip()) or self.label_of.get(normalise(text))

    def read_strictly(self, text: str, task: TaskData) -> Any:
        """The same where nothing else could be meant: a text that names several labels says none."""
        return self.read(text, task)


def new_tokens(generated: Tensor, prompt: Tensor) -> Tensor:
    """What was generated, without the prompt: models fed with ids repeat it in their output, those fed with
    embeddings (a soft prompt in front) do not."""
    width = prompt.shape[1]
    repeats = generated.shape[1] >= width and torch.equal(generated[:, :width], prompt)
    return generated[:, width:] if repeats else generated
