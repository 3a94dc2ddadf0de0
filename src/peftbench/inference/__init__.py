"""The fourth word of a method: how answers are drawn from a finished learner. `plain` is what its formulation says.

Each inference declares itself in a module of its name (`base.Declared`), and every one has a setting at which it is
`plain`, to the bit: a run with that setting is the plain run, and has its name.
"""
