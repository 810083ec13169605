"""Prefect flows: thin, no arithmetic. What a flow does, ``voxcloud run`` does too."""
