"""Values of the tables that a study wrote: scores, depths, distances and curves, without words.

Tables in, tables and arrays out: neither torch nor drawing is needed, and pandas is imported only
by the functions that use it. `lightning_unlearn.statistics` has the formulas,
`lightning_unlearn.report` the sentences and figures.
"""
