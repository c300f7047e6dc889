"""Arrays in, arrays out: the networks and all that makes them fast. No PyAV here.

The `restorer` takes pictures in presentation order and gives restored luma in the same order. On
the way pictures get their references (`window`, `references`), what did not change is left out
(`reuse`), batches are made (`batches`, `slots`) and run through a network on a device, in floating
point or in int8 (`int8`), and results are averaged over time (`steady`). Begin with `restorer`.
"""
