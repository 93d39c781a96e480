"""Real or fake: FaceNet's network, fine-tuned on faces that generators made, that were swapped, and real ones."""
