"""The commands: click and rich, one module a command, its display beside it.

A command turns its options (`options`) into the options of the wing that does the work, calls it
once, shows what it says, and turns errors and signals into exit codes. Nothing here imports torch
or PyAV before that call, so that --help is there at once. Begin with `restore`, the command
`carfilter` itself.
"""
