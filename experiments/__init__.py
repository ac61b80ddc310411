"""What measures this project against others, from a checkout only: speed against peers, the gate's error rates."""
