"""`peftbench check-method`: does a tuner keep the promises of `peftbench.tuners.base`? Judged on tiny networks."""
