"""BIDS files: tables, images, sidecars, atlases and statistical maps."""
