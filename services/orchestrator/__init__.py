"""The front door: intake, fan-out, decision policy, and all state."""
