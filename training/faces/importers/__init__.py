"""Users' own classifiers of faces become the model `facenet_realfake`."""
