"""Diffusion maps of one session, from its raw images to its derivatives: the step ``dwi-maps`` and its parts."""
