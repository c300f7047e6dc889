"""What FFmpeg knows, and the only wing with PyAV.

A `source` is opened and demuxed; its video is decoded into frames with times set right (`clock`,
`cut`), everything else passes as packets. A `target` encodes the frames, carries the other
streams (`streams`), and has its name only when it is complete. Frames travel whole: only their
luma is exchanged (`frames`), so that times, colours and side data cannot be forgotten. Begin with
`source` and `target`.
"""
