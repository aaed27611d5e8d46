"""What the records of a study say: scores, depths, statistics, sentences, tables and figures.

Works on tidy tables alone: neither torch nor lightning is needed, and pandas, rich and matplotlib
are imported only by the functions that use them.
"""
