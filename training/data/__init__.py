"""The training data: sources, manifest, assembly, and what must not tell the classes apart."""
