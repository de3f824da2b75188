"""Which samples are there? Runs in the parent process: it lists names, decodes nothing and imports no torch."""
