"""Inference on maps of statistics: random fields, false discovery rates, permutation, Bayes factors, families."""
