"""The `remote` stage: prompts are answered by a language model behind an HTTP interface; nothing is trained.

Prompts and demonstrations are those of `method/formulation=prompted`.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import number, packaged
from peftbench.stages.base import Stage


@packaged("method/remote", "remote")
@dataclass
class ServerOptions:
    """How a server is asked."""

    url: str | None = MISSING
    model: str | None = MISSING
    key_variable: str = MISSING
    temperature: float = number(ge=0)
    max_tokens: int = number(ge=1)
    timeout: float = number(gt=0)
    retries: int = number(ge=0)
    wait: float = number(ge=0)


@packaged("method/remote", "remote")
@dataclass
class RemoteOptions(ServerOptions):
    """`method.remote`."""

    parallel: int = number(ge=1)


STAGE = Stage(
    run="peftbench.stages.remote.asking:ask",
    options=RemoteOptions,
    section="remote",
    uses=("method.formulation", "task.label_words"),
    check="peftbench.stages.remote.asking:check",
    several_processes=False,
    trains=False,
)
