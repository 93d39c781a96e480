"""YuNet: a face detector of 76,000 weights, taught by the published one."""
