"""The version of Pentimento, which all of its services share."""

from importlib.metadata import version

__all__ = ["VERSION"]

VERSION = version("pentimento")
