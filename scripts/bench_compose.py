"""CPU milliseconds that Hydra takes for one config, with and without its own section; in interleaved pairs.

python scripts/bench_compose.py [ROUNDS]
"""

import sys
import time
from statistics import median
from typing import Any

from hydra import initialize_config_module

from peftbench.config.composition import loaded, whole_command
from peftbench.config.hydra_source import CONFIG_MODULE, HYDRA_DEFAULTS, RUN
from peftbench.config.load import to_run_config

METHODS = ("dept", "lora", "full", "pet", "setfit", "tfidf_lr", "grpo", "icl")
STEPS: dict[str, Any] = {
    "with": whole_command,
    "without": lambda overrides: loaded(RUN, overrides),
    "checked": to_run_config,
}


def main(rounds: int) -> None:
    """Prints the median of each way; the first round, which reads the files, is left out."""
    spent: dict[str, list[float]] = {name: [] for name in STEPS}
    with initialize_config_module(CONFIG_MODULE, **HYDRA_DEFAULTS):
        for number in range(1 + rounds):
            for method in METHODS:
                overrides = [f"method={method}", f"seed={number}", f"trainer.steps={number + 1}"]
                cfg: Any = None
                for name, step in STEPS.items():
                    began = time.process_time()
                    cfg = step(cfg if name == "checked" else overrides)
                    spent[name].append(time.process_time() - began)
    for name, seconds in spent.items():
        print(f"{name:8} {1000 * median(seconds[len(METHODS) :]):6.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
