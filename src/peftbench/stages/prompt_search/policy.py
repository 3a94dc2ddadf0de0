"""Which operator is tried on a part of a prompt: a value for each pair, learned from the gains seen so far.

PromptFlow (arXiv 2510.12246) recycles experience by reinforcement learning; its rule was not published. Ours:

    pi(o | s) = softmax(Q[s, o] / T),    Q[s, o] <- Q[s, o] + rate * (gain - Q[s, o]),

gain being F(new) - F(old) on the same rows, as a fraction. T falls in a straight line to a tenth of itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Policy:
    """Chances of operators.

    Attributes:
        learned: False: all operators are as likely, whatever their values.
        rate: of the values.
        softness: T of the first step.
        steps: over which T falls.
    """

    learned: bool
    rate: float
    softness: float
    steps: int
    values: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def chances(self, section: str, operators: Sequence[str], step: int) -> np.ndarray:
        """(operators,) of the 0-based step."""
        if not self.learned:
            return np.full(len(operators), 1 / len(operators))
        temperature = self.softness * (1 - 0.9 * step / max(self.steps - 1, 1))
        scaled = np.array([self.values[section, name] for name in operators]) / temperature
        powers = np.exp(scaled - scaled.max())
        return np.asarray(powers / powers.sum())

    def learn(self, section: str, operator: str, gain: float) -> float:
        """Move a value towards the gain; what it is then."""
        self.values[section, operator] += self.rate * (gain - self.values[section, operator])
        return self.values[section, operator]
