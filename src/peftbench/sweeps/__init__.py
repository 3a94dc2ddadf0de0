"""Many runs: which there are, where they are made, and what came of them. Free of torch until a run starts."""
