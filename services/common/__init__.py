"""What every service shares: server, errors, settings, telemetry, decoding, detectors, Triton."""
