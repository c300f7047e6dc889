"""Scores of filters: as rows, tables, plots and a page to look at.

`study` is the whole of it: clips are compressed and kept (`prepared`), each method restores them
(`methods`), the results are measured (`measures`, `detection`) and cached, and `tables`, `plots`,
`verdicts` and `report` say what came out. Begin with `study`.
"""
