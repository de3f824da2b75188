"""What is wrong with this machine for a training, before anything runs? Readings in, one line a check out."""
