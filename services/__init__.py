"""The four services of the mesh, and what they share (services.common)."""
