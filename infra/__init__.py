"""Where voxcloud runs: Dask clusters behind one small interface, found by the entry-point group ``voxcloud.engines``."""
