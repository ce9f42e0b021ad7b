"""The pool of worker processes: gives each invocation to exactly one worker, and answers each caller exactly once."""
