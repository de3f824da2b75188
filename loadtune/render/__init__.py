"""What people see: one Report as terminal lines, a page, or a JSON file. Nothing here measures or decides.

`words` puts numbers and names into words, `answer` and `commands` say in sentences what was found and what
comes next, and each output only arranges them: `terminal`, `html` (with `charts`, `drawing` and `tables`) and
`saved`. `progress` shows a probe while it runs.
"""
