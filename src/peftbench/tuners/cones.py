"""ConES's start of a soft prompt: class embeddings learned without a backward pass through the backbone.

Concept embedding search (Yi et al., arXiv 2305.18993) leaves out the text encoder that would turn a prompt into an
embedding, and optimises that embedding itself. The paper works on images. Our reading for text classification, which
is not "the paper": the frozen backbone reads each labelled text and each class name once and gives one vector for it,
the mean of its last hidden states. Class vectors Z (C, q, d) start at the class names and are trained with
cross-entropy over

    s_c = log sum_q exp(cos(h(x) - mu, z_cq) / tau)

where mu, the mean of the labelled texts, is taken off all vectors (mean-pooled states all point one way, and their
cosines differ little), and tau is learned too. The rows of Z, as long as the average word embedding, are the first
prompt: class after class, repeated or cut to the wanted number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext

STEPS, RATE = 200, 1.0e-2
"""Passes over the cached vectors, and AdamW's learning rate."""
SPREAD = 0.02
"""Standard deviation, relative to its length, of what sets the q vectors of a class apart at the start."""
FIRST_TAU = 0.1


def concept_prompt(backbone: Backbone, context: TunerContext, rows: int) -> Tensor:
    """(rows, d) first prompt rows from learned class embeddings.

    Raises:
        UsageError: there are no labelled texts, or what they carry are not class names.
    """
    shots = context.shots
    if not shots:
        raise UsageError("method.tuner.init=cones learns from labelled texts, and there are none (shots=0).")
    if not all(isinstance(row.target, str) for row in shots):
        raise UsageError("method.tuner.init=cones learns one vector a class; this task's targets are no class names.")
    classes = sorted({str(row.target) for row in shots})
    texts = encode(backbone, [row.whole for row in shots], context.max_length)
    names = encode(backbone, classes, context.max_length)
    each = -(-rows // len(classes))
    targets = torch.tensor([classes.index(str(row.target)) for row in shots])
    learned = learn_concepts(texts, targets, names, each, context.seed)
    embeddings = backbone.model.get_input_embeddings().weight.detach().float()  # type: ignore[union-attr, operator]
    flat = learned.transpose(0, 1).reshape(-1, learned.shape[-1])[:rows]
    return F.normalize(flat, dim=1) * embeddings.norm(dim=1).mean()


def learn_concepts(texts: Tensor, targets: Tensor, names: Tensor, each: int, seed: int) -> Tensor:
    """(C, each, d) class embeddings that tell the texts apart.

    Args:
        texts: (n, d) vectors of the labelled texts; targets: (n,) their classes.
        names: (C, d) vectors of the class names, where the search starts.
    """
    centre = texts.mean(0)
    texts, start = texts - centre, (names - centre).unsqueeze(1).repeat(1, each, 1)
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
    noise *= SPREAD * start.norm(dim=-1, keepdim=True) * (torch.arange(each) > 0).view(1, -1, 1)
    with torch.enable_grad():
        concepts = (start + noise).requires_grad_(True)
        log_tau = torch.tensor(FIRST_TAU).log().requires_grad_(True)
        optimizer = torch.optim.AdamW([concepts, log_tau], lr=RATE)
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(concept_scores(texts, concepts, log_tau.exp()), targets).backward()
            optimizer.step()
    return concepts.detach()


def concept_scores(texts: Tensor, concepts: Tensor, tau: Tensor) -> Tensor:
    """(n, C) scores of (n, d) vectors against (C, q, d) class embeddings."""
    cosines = torch.einsum("nd,cqd->ncq", F.normalize(texts, dim=-1), F.normalize(concepts, dim=-1))
    return (cosines / tau).logsumexp(-1)


@torch.no_grad()
def encode(backbone: Backbone, texts: Sequence[str], max_length: int) -> Tensor:
    """(n, d) mean last hidden states, special tokens included, one pass a text; T5 is asked for its encoder's."""
    model = backbone.model
    stack = model.get_encoder() if backbone.family == "seq2seq" else model.base_model
    vectors = []
    for text in texts:
        ids = backbone.tokenizer(backbone.prefix + text, truncation=True, max_length=max_length)["input_ids"]
        vectors.append(stack(input_ids=torch.tensor([ids])).last_hidden_state[0].float().mean(0))  # type: ignore[operator]
    return torch.stack(vectors)
