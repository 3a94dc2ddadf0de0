"""A trained run whose learner another run takes over, to draw answers from it in another way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.config.load import compose_raw, from_plain, resolve
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.inputs import Inputs
from peftbench.records import manifest as manifests
from peftbench.records.record import Record
from peftbench.saved.load import restored, with_places

if TYPE_CHECKING:
    from peftbench.stages.base import Context, Predictor

STAGE = "loaded"
"""What stands in the record for the stages that the parent had."""
OPEN = ("method/inference=", "method.inference.", "rerun=")


class Parent:
    """What a run has trained, for `peftbench.runner.run`.

    Args:
        record: the run's.
        folder: its `adapter/`.
    """

    def __init__(self, record: Record, folder: Path) -> None:
        self.record, self.folder = record, folder

    def config(self, overrides: Sequence[str], out_dir: str) -> RunConfig:
        """The run's config with another inference: that of the command that would train and draw answers so.

        Raises:
            UsageError: an override is about something else, or the inference does not fit.
        """
        for override in overrides:
            if not override.startswith(OPEN):
                raise UsageError(
                    f"infer: {override}: a trained run is as it is. What may be given is method/inference=NAME, "
                    "method.inference.KEY=VALUE and rerun=true."
                )
        made = resolve(compose_raw(overrides))
        config, method = self.record.config, {**self.record.config["method"]}
        method["inference"] = made["method"]["inference"]
        cfg = from_plain({**config, "method": method, "out_dir": out_dir, "rerun": made["rerun"]})
        if cfg.method.inference is None:
            raise UsageError(
                f"infer {self.record.run_id}: method/inference={made['method']['inference']['name']} as it is given "
                "changes nothing; the run has those answers already. Choose another inference, or other options of it."
            )
        return cfg

    def check_rows(self, now: Inputs) -> None:
        """Raises UsageError if data or draw are not those that were trained on."""
        known = self.record.data.get("sha256"), self.record.draw.get("sha256")
        if known != (now.data.sha256(), now.draw.sha256()):
            raise UsageError(
                f"infer {self.record.run_id}: the data of {self.record.task} have changed since, so these would be "
                "other rows than the run had. Run it again with rerun=true."
            )

    def __call__(self, context: Context, record: Record) -> Predictor:
        """The learner with the run's weights, in the place of what the stages of `context` would train."""
        from peftbench.stages.base import StageReport
        from peftbench.stages.learning import LearnerPredictor

        with context.in_stage(0, STAGE), context.clock("model"):
            manifest = with_places(manifests.read(self.folder), self.record.config)
            learner = restored(self.folder, manifest, manifests.config_of(manifest), manifests.task_of(manifest))[0]
            learner.context = replace(learner.context, shots=context.draw.train)
            learner.formulation.shots = context.draw.train
            assert learner.config is not None
            method = replace(learner.config.method, inference=context.cfg.method.inference)
            learner.config = replace(learner.config, method=method)
            context.reports.append(StageReport(STAGE, notes=[f"trained by run {self.record.run_id}, not again"]))
        record.model_info, record.inference = self.record.model_info, {"parent": self.record.run_id}
        return LearnerPredictor(learner, context)
