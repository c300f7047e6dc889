"""`fast` and `best` in int8 on CPUs.

`calibration` measures the ranges of the activations. `convolutions` computes through torch; `rows`
computes the same, bit by bit and faster, through rows.c, which is compiled for several kinds of CPU
where carfilter is installed; `packing` lays the weights out as it takes them.
"""
