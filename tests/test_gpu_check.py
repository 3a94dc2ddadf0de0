"""scripts/gpu_check.py, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_on_a_cpu_every_check_passes_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "f.json")
    command = ["scripts/gpu_check.py", "--device", "cpu", "--methods", "conv_adapter", "--out", out]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "f.json").read_text())["checks"]
    assert {"machine", "nccl", "nf4", "memory", "resume", "tuner conv_adapter tiny-bert"} <= set(found)
    assert found["resume"]["largest_difference"] == 0
    assert "does not fit a causal backbone" in found["tuner conv_adapter tiny-llama"]["refused"]
    assert found["tuner conv_adapter tiny-bert"]["fp32"] > 0
