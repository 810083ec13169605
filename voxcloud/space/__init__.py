"""Geometry: registration, resampling, field maps on grids. Arrays and affines in, arrays out."""
