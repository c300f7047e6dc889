"""Cleaning a whole folder: planned, resumed, verified, by several processes or a Ray cluster.

`plan` finds the files, `book` and `state` keep what was done with each in a database, `schedule`
hands jobs to the workers of a `pool`, `worker` does one, `verify` checks its result, and `report`
writes the page at the end; `watch` waits for new files. Begin with `clean`, which ties them
together.
"""
