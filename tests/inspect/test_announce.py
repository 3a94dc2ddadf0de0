"""A run says at once what begins and, from earlier records, how long that takes."""

from peftbench.config.load import compose
from peftbench.inspect.announce import Announced, announce, first_line
from peftbench.inspect.estimate import CostEstimate


def test_the_first_lines(tmp_path, capsys, monkeypatch):
    cfg = compose(["method=majority", "shots=2", f"out_dir={tmp_path}"])
    assert first_line(cfg) == f"majority on demo_news/eng, 2 shots, seed 1 -> {tmp_path}"
    known = CostEstimate(seconds=2.6, peak_mib=None, basis="1 run of the same")
    monkeypatch.setattr("peftbench.inspect.announce.Estimator.estimate", lambda self, cfg: known)
    assert first_line(cfg).endswith("; about 3 s (1 run of the same)")
    announce(cfg)
    inputs = Announced(cfg)
    inputs.load(cfg)
    inputs.load(cfg)
    assert capsys.readouterr().err.splitlines()[1:] == ["rows: 14 train, 35 dev, 105 test"]
