"""Diffusion MRI: denoising and the tensor. Arrays in, arrays out.

``denoise.denoise`` is MP-PCA, ``tensor.fit_tensor`` the weighted tensor fit with its scalars. b-values are in s/mm2,
b-vectors are unit vectors in RAS+, diffusivities in mm2/s. The kernels are compiled by numba, which is imported when
the first of them is needed.
"""
