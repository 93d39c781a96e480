"""Networks that look at the whole picture."""
