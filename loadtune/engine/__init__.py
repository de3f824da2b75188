"""How trials run: a process that has imported torch forks them on demand; the parent watches, ends and reads them."""
