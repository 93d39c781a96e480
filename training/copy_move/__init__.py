"""Fits the trees that tell a copy from honest repetition (`services/passive/detectors/_copy_move/repetition.json`).

pictures    which pictures: planted, hand-made, honest, rendered
rendered    pictures full of parts that look alike by nature
pairs       what the detector finds in them, measured and labelled
fitting     the trees, what they find and accuse, and the file that the detector reads
"""
