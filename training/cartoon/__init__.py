"""Cartoon or human: the head of the model `vgg16_cartoon`."""
