"""Quantitative MRI: multi-parameter maps from multi-echo FLASH and B1 acquisitions. Arrays in, arrays out.

``maps.create_maps`` does everything at once, ``maker.MapMaker`` block by block; each step is a function of its own. The
kernels are compiled by numba, which is imported when the first of them is needed. Angles are in rad, times in s, rates
in 1/s, B1 is the ratio of the actual to the nominal flip angle.
"""
