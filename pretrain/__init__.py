"""Images in, a ResNet checkpoint out: SimSiam and its peers, watched and restartable; linear and kNN evaluation."""
