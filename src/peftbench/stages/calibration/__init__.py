"""The `calibration` stage: how likely the label words are before any step of training, whatever the text.

Its options are the formulation's (`method.formulation.calibration`, `prior_rows`), which divides by the prior.
"""

from __future__ import annotations

from peftbench.stages.base import Stage

STAGE = Stage(run="peftbench.stages.calibration.prior:calibration", trains=False, calibrates=True)
