"""How the learning rate, and what hangs on it, follows the batch size."""
