"""What the pages share that carfilter writes: their style and script, charts, pictures, numbers.

A page is one file that loads nothing, or with its pictures in a folder beside it where they are
thousands. Templates are filled by jinja2, which torch needs as well and so is always there.
"""
