"""Run from a checkout only: speed against peers, the gate's error rates, this repository's pages and stored results."""
