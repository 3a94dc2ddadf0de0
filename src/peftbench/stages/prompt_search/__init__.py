"""The `prompt_search` stage: it returns a prompt. Nothing is trained; the prompts that were tried are kept with their
scores, and what chooses among them are train and dev rows alone.

How prompts are found (`by`):

- `promptflow`: parts of a prompt are edited one at a time by operators, chosen by a learned policy (`flow`).
- `promptor`: one prompt of fixed parts, from what is known of the task (`promptor`).
- `listed`: the prompts of a set that people wrote (`listed`).
- `gepa`: the library of that name, an independent peer (`peer`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

from omegaconf import MISSING

from peftbench.config.components import INPUT
from peftbench.config.schema import ModelConfig, RunConfig, number, one_of, packaged
from peftbench.errors import UsageError, did_you_mean
from peftbench.formulations.prompted import PromptedConfig
from peftbench.stages.base import Stage
from peftbench.stages.prompt_search.candidates import EXAMPLES
from peftbench.stages.prompt_search.operators import OPERATORS
from peftbench.stages.remote import ServerOptions

SECTION = "method.prompt_search"
OWN, REMOTE, NOBODY = "own", "remote", "none"
"""Who writes: the run's own model, one behind HTTP, nobody. Any other word is a name for `model=`."""


@packaged("method/promptflow", "prompt_search")
@dataclass
class PromptSearchOptions(ServerOptions):
    """`method.prompt_search`; the keys of a server are those of the writer, if that is a remote one."""

    by: str = one_of("promptflow", "promptor", "listed", "gepa")
    start: str = one_of("sections", "promptor")
    sections: dict[str, str] = field(default_factory=dict)
    about: str | None = MISSING
    definitions: dict[str, str] = field(default_factory=dict)
    examples: int = number(ge=0)
    writer: str = MISSING
    calls: int | None = number(ge=1)
    tokens: int | None = number(ge=1)
    steps: int = number(ge=0)
    patience: int | None = number(ge=1)
    batch: int = number(ge=1)
    validation: int | None = number(ge=1)
    longest: int = number(ge=8)
    operators: list[str] = field(default_factory=list)
    policy: str = one_of("q", "uniform")
    rate: float = number(ge=0, le=1)
    softness: float = number(gt=0)
    remembered: int = number(ge=0)


def settle(cfg: PromptSearchOptions) -> None:
    """Raises UsageError if an operator is none, or gepa is wanted and not installed."""
    for name in cfg.operators:
        if name not in OPERATORS:
            raise UsageError(f"{SECTION}.operators: `{name}` is no operator. {did_you_mean(name, OPERATORS)}")
    if EXAMPLES in cfg.sections:
        raise UsageError(
            f"{SECTION}.sections.{EXAMPLES}: the part of that name are train rows. {SECTION}.examples says how many "
            "the first prompt shows."
        )
    if cfg.by == "promptflow" and not cfg.operators:
        raise UsageError(f"{SECTION}.operators: empty; a search needs at least one of {', '.join(OPERATORS)}.")
    if cfg.by == "gepa" and find_spec("gepa") is None:
        raise UsageError(f'{SECTION}.by=gepa: gepa is not installed. pip install "peftbench[gepa]"')


def is_writing(cfg: PromptSearchOptions) -> bool:
    """Whether somebody may be asked to write."""
    return cfg.writer != NOBODY and cfg.by != "listed" and (needs_writer(cfg) or "promptor" in (cfg.by, cfg.start))


def needs_writer(cfg: PromptSearchOptions) -> bool:
    """Whether the search cannot go on without one."""
    return cfg.by == "gepa" or (cfg.by == "promptflow" and any(OPERATORS[name].asks for name in cfg.operators))


def fits(run: RunConfig) -> None:
    """Raises UsageError if there is no prompt to search for, there are no rows to judge one by, or nobody writes."""
    cfg, posed = run.method.options("prompt_search"), run.method.formulation
    if not isinstance(posed, PromptedConfig):
        raise UsageError(
            f"method.stages=[{', '.join(run.method.stages)}]: `prompt_search` finds written prompts. Use "
            "method/formulation=prompted."
        )
    if posed.calibration != "none":
        raise UsageError(
            f"method.formulation.calibration={posed.calibration}: a prior belongs to one prompt, and the search tries "
            "many. Set it to none; calibrate the found prompt in a run of its own (method.formulation.prompts=FILE)."
        )
    if run.labelled == 0:
        raise UsageError("shots=0: a prompt is chosen on labelled rows, and there are none. Use shots=16, for example.")
    _check_writer(run, cfg)


def _check_writer(run: RunConfig, cfg: PromptSearchOptions) -> None:
    if needs_writer(cfg) and cfg.writer == NOBODY:
        raise UsageError(f"{SECTION}.writer=none: by={cfg.by} needs somebody who writes. Use own, remote or a model.")
    if not is_writing(cfg):
        return
    if cfg.writer == REMOTE:
        from peftbench.stages.remote.server import check_server

        check_server(cfg, SECTION)
        return
    own = cfg.writer == OWN
    family = run.model.family if own else compose_model(cfg.writer).family
    if family != "causal" and not (own and family == "encoder"):  # an encoder is refused when it is loaded, as ever
        raise UsageError(
            f"{SECTION}.writer={cfg.writer}: a {family} model does not write freely. Use a causal one, such as "
            "smollm2-135m, or remote."
        )


def compose_model(name: str) -> ModelConfig:
    """The section of `model=NAME`."""
    from peftbench.config import compose

    return compose([f"model={name}"]).model


def contents(run: RunConfig, _: object) -> dict[str, str]:
    """The weights of a writer that is not the run's own model."""
    cfg = run.method.options("prompt_search")
    if not is_writing(cfg) or cfg.writer in (OWN, REMOTE):
        return {}
    from peftbench.models.content import content_id

    return {"writer": content_id(compose_model(cfg.writer))}


STAGE = Stage(
    run="peftbench.stages.prompt_search.stage:prompt_search",
    check="peftbench.stages.prompt_search.stage:check",
    options=PromptSearchOptions,
    section="prompt_search",
    uses=(*INPUT, "method.formulation", "task.label_words"),
    settle=settle,
    fits=fits,
    contents=contents,
    several_processes=False,
    trains=False,
)
