"""The mix-and-match adapter (He et al., ICLR 2022, arXiv 2110.04366, section 4.6): a short prefix in the attention of
every block, and a wide scaled adapter beside every feed-forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from peftbench.models.base import Backbone
from peftbench.tuners.adapter_tuner import AdapterTuner
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.mam import MamOptions
from peftbench.tuners.prefix_tuning.tuner import PrefixTuningTuner


class MamModel(nn.Module):
    """The same backbone seen through both: each works by hooks and layers inside of it."""

    def __init__(self, prefixed: nn.Module, adapted: nn.Module) -> None:
        super().__init__()
        self.prefixed = prefixed
        self.adapted = adapted

    @property
    def config(self) -> Any:
        """The backbone's."""
        return self.adapted.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.adapted(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's generate."""
        return self.adapted.generate(*args, **kwargs)  # type: ignore[operator]


class MamTuner(Tuner):
    """`prefix_tuning` and `parallel` on one backbone, each with its own files and group: `prefix` and `adapter`."""

    budget_knob = "bottleneck"
    cfg: MamOptions

    @property
    def prefix(self) -> PrefixTuningTuner:
        """The tuner of the prefix: its knobs are among ours."""
        return PrefixTuningTuner(self.cfg)

    @property
    def adapter(self) -> AdapterTuner:
        """The tuner of the adapters: its knobs are among ours."""
        return AdapterTuner(self.cfg)

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        prefixed = self.prefix.build(backbone, context)
        return MamModel(prefixed, self.adapter.build(backbone, context))

    def param_groups(self, model: nn.Module) -> ParamGroups:
        assert isinstance(model, MamModel)
        adapter = self.adapter.param_groups(model.adapted)
        ours = {id(p) for parameters in adapter.values() for p in parameters}
        prefix = [p for p in model.parameters() if p.requires_grad and id(p) not in ours]
        return {"prefix": prefix, **adapter}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        prefix = self.prefix.expected_parameters(backbone, context)
        adapter = self.adapter.expected_parameters(backbone, context)
        assert prefix is not None
        assert adapter is not None
        return prefix + adapter

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        assert isinstance(model, MamModel)
        return self._both_disabled(model)

    @contextmanager
    def _both_disabled(self, model: MamModel) -> Iterator[None]:
        prefix, adapter = self.prefix.disabled(model.prefixed), self.adapter.disabled(model.adapted)
        assert prefix is not None
        assert adapter is not None
        with prefix, adapter:
            yield

    def save(self, model: nn.Module, folder: Path) -> None:
        """Two adapters in the subfolders `prefix` and `adapter`."""
        assert isinstance(model, MamModel)
        self.prefix.save(model.prefixed, folder / "prefix")
        self.adapter.save(model.adapted, folder / "adapter")

    def load(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, MamModel)
        self.prefix.load(model.prefixed, folder / "prefix")
        self.adapter.load(model.adapted, folder / "adapter")
