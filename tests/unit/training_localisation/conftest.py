"""The pictures of the tests that need PyTorch."""

from training.localisation.tests.conftest import listed, store

__all__ = ["listed", "store"]
