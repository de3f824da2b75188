"""Is the tool right on this machine? The checks of `loadtune verify`, each an ordinary trial or duel."""
