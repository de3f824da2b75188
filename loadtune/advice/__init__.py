"""What the measurements mean: which setting to try next, which to recommend, and why.

Pure: time and budget are handed in; nothing here starts a process, reads a file or a clock.
"""
