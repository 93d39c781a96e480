"""Apparent gender and age: heads on what CLIP's first blocks see, fitted on labelled faces of all ages."""
