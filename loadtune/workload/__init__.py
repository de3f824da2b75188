"""What is trained: the samples, network and training step; runs in the trial process and imports torch."""
