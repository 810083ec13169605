"""Quantitative MRI: multi-parameter maps from multi-echo FLASH and B1 acquisitions. Pure NumPy, arrays in, arrays out.

``maps.create_maps`` does everything at once; each step is a function of its own. Angles are in rad, times in s, rates
in 1/s, B1 is the ratio of the actual to the nominal flip angle.
"""
