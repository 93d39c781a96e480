"""The head of the model `generated`: from the CLIP encoder's features to "made by a generator or photographed"."""
