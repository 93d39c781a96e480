"""Tests that need PyTorch: `make train-test`."""
