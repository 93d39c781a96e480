"""Measuring detectors on labelled pictures: forgeries, metrics, calibration, reports."""
