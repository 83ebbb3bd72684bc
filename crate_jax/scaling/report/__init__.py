"""The report of `scaling.plateau`: from a table of cells to words, tables and pictures."""
