"""What every adapter of our own needs to live in a `PeftModel`: one class around peft's `BaseTuner`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn


class HostedModel(BaseTuner):
    """A backbone with layers of ours in it. A subclass says what it is and how a module is wrapped.

    Attributes:
        title: of the method, for messages.
        why_not_merged: what the adapter is instead of a change of weights.
    """

    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - as peft declares it
    title: ClassVar[str]
    why_not_merged: ClassVar[str]

    @abstractmethod
    def put(self, config: Any, adapter: str, target: nn.Module, name: str, parent: nn.Module, place: str) -> None:
        """Put an adapter at a module, wrapping it if it is not wrapped yet.

        Args:
            config: the adapter's.
            adapter: its name.
            target: the module, or our layer around it.
            name: the module's within `parent`.
            place: the module's full name.
        """

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **unused: Any,
    ) -> None:
        self.put(peft_config, adapter_name, target, target_name, parent, current_key)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            f"{self.title} cannot be merged into the base model: {self.why_not_merged}. Keep the adapter beside the "
            "model, or call unload() to drop it."
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(f"{self.title} does not support adapter_names (several in one batch). Use set_adapter.")
        yield
