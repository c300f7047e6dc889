"""The main job: one source restored into one target.

`pipeline` opens both, `stages` are the threads between them, `account` is what the run has done so
far; `announce` and `sidecar` say it, and `live` follows a camera. Begin with `pipeline`.
"""
