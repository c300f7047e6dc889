"""Training and fine-tuning: packs of clean and compressed luma in, a checkpoint out.

`dataset` draws crops, `recipe` says which loss and which rate, `loop` trains, `validation` scores,
`log` keeps the course, and `job` is one whole training from options to file. Begin with `job`.
"""
