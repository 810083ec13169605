"""Longitudinal quantitative brain MRI: from BIDS maps to publication-grade group statistics."""

__version__ = "0.1.0"
