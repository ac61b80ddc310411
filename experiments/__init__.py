"""Run from a checkout only: speed against peers, the gate's error rates, the generated parts of the documentation."""
