"""Passes through a network that are spared: read where an equal one was made before (`frozen_blocks`), or made once for
the rows of several runs (`shared_pass`), which take turns in one process (`turns`)."""
