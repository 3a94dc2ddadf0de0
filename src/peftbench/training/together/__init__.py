"""Several runs trained together: each is told as ever, in a thread of its own, and they share the forward and backward
passes of their equal frozen networks. Data order, optimiser, schedule, clipping, dev choice, checkpoints and record are
each run's own, by the code of a run alone."""
