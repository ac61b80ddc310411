"""Every part's speed against a named peer, in turn in one run: `python -m experiments.speed`."""
