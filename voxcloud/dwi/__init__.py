"""Diffusion MRI: from images and gradient tables to tensors. Arrays in, arrays out.

``gradients`` checks tables and turns b-vectors to RAS+, ``fibre_continuity.check_frame`` finds wrong axes and signs in
the images; ``denoise.denoise`` is MP-PCA, ``gibbs.unring`` removes Gibbs ringing, ``motion.correct_motion`` corrects
movement, eddy currents and lost slices, ``tensor.fit_tensor`` is the weighted tensor fit with its scalars, and
``quality`` tells how good all of it is. b-values are in s/mm2, b-vectors are unit vectors in RAS+, diffusivities in
mm2/s. The kernels are compiled by numba, which is imported when the first of them is needed.
"""
