"""What networks say about a face, one attribute a file: what goes in, and what comes out."""
