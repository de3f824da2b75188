"""What is passed around: frozen values that cross the walls between the rooms, and nothing that acts.

Every record can be written as JSON and read back as an equal value. Units end the names: `_s`, `_bytes`,
`_ratio` (0 to 1 unless the description says otherwise), `_per_s`, `_px`. What was not measured is None, with the
reason in a field beside it.
"""
