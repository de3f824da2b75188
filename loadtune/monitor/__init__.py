"""What did the machine do while a trial ran? Watched from the parent process; nothing here imports torch."""
