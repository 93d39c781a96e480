"""Real or fake faces: what frozen features tell, as a yardstick for the network that is fine-tuned."""
