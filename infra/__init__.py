"""Where voxcloud runs: Dask clusters behind one small interface (entry-point group ``voxcloud.engines``)."""
