"""What CLIP's first blocks see of a face: the model `clip_face`, whose answer other networks read."""
