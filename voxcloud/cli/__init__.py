"""The command line: ``voxcloud``. Everything heavy is imported by the command that needs it."""

from voxcloud.cli.app import main

__all__ = ["main"]
