"""The inference `conjugate`: rows are asked in another form, and answers mapped back. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from peftbench.config import registry
from peftbench.config.components import choices
from peftbench.config.schema import InferenceConfig, number, one_of, packaged
from peftbench.errors import UsageError, did_you_mean
from peftbench.formulations.prompts import packaged_sets, prompt_set
from peftbench.inference.base import Declared

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

CIPHERS = ("leetspeak", "pig_latin")
PARALLEL, RESCALE = "parallel", "rescale"
REGRESSION = "regression"


@packaged("method/inference/conjugate")
@dataclass
class ConjugateConfig(InferenceConfig):
    """`conf/method/inference/conjugate.yaml`."""

    transform: str = one_of("none", *CIPHERS, PARALLEL, RESCALE)
    factor: float = number(gt=0)
    file: str | None = MISSING
    sha256: str | None = MISSING
    """Fingerprint of the file that `file` names, set when the config is composed."""
    prompts: str | None = MISSING


def settle(cfg: ConjugateConfig) -> None:
    """Raises UsageError if the parallel texts are not there, or not those that the run began with."""
    if cfg.transform != PARALLEL:
        return
    key = f"method.inference.file={cfg.file}"
    path = Path(str(cfg.file)).expanduser().resolve()
    if cfg.file is None or not path.is_file():
        raise UsageError(
            f'{key}: no such file. transform={PARALLEL} takes a JSON line {{"text": ..., "other": ...}} for each text.'
        )
    digest = registry.sha256(path)
    if cfg.sha256 not in (None, digest):
        raise UsageError(f"{key}: was edited since this run began. Start it again.")
    cfg.file, cfg.sha256 = str(path), digest


def fits(cfg: ConjugateConfig, run: RunConfig) -> None:
    """Raises UsageError if the transformation is none of what the task asks for."""
    problem, formulation = choices(run).problem, run.method.formulation
    if (cfg.transform == RESCALE) != (problem == REGRESSION):
        raise UsageError(
            f"method.inference.transform={cfg.transform}: {RESCALE} is for numbers, the others are for texts and "
            f"labels; this task has {problem} targets."
        )
    if cfg.transform == RESCALE and not getattr(formulation, "k", 0):
        raise UsageError(
            f"method.inference.transform={RESCALE}: rescales the numbers of demonstrations, and none are shown. Use "
            "method=icl."
        )
    if getattr(formulation, "calibration", "none") == "prior" or getattr(formulation, "candidates", None):
        raise UsageError(
            "method/inference=conjugate: the label words are others. Use method.formulation.calibration=contextual or "
            "none, and candidates=null."
        )
    if cfg.prompts is not None:
        if not hasattr(formulation, "prompts"):
            raise UsageError("method.inference.prompts: a set of written prompts. Use method/formulation=prompted.")
        if cfg.prompts not in packaged_sets() and not Path(cfg.prompts).is_file():
            raise UsageError(
                f"method.inference.prompts={cfg.prompts}: no such set. {did_you_mean(cfg.prompts, packaged_sets())}"
            )
        prompt_set(cfg.prompts)


INFERENCE = Declared(
    "peftbench.inference.conjugate.prompting:Conjugate",
    options=ConjugateConfig,
    neutral=lambda cfg: cfg.transform == "none" or (cfg.transform == RESCALE and cfg.factor == 1),
    problems=frozenset({"classification", REGRESSION, "text", "answers"}),
    fits=fits,
    settle=settle,
)
