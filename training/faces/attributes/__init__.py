"""Apparent gender and age: the ResNet-10 that says age, taught both on labelled faces of all ages."""
