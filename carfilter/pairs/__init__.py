"""Clean clips and their compressed twins, for training and for measuring.

`variants` says which encodes are made of a clip, `photos` turns photographs into clips, `degrade`
makes the twins, several at a time, and `packs` is the form in which they are kept: luma, QP maps
and frame types. Begin with `degrade`.
"""
