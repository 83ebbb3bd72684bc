"""Scaling studies: the grid, its runs, the fits, and what they answer."""
