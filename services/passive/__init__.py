"""What the file and its pixels testify, without a learned model."""
