"""Models of time and of groups: bases, formulas, contrasts, least squares, and who drives a result. Pure NumPy."""
