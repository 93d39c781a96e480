"""Fits the weights of the five statistical metrics of the passive service."""
