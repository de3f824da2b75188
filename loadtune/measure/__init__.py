"""How a setting is timed: runs in the trial process, imports torch, knows nothing of searches or reports."""
