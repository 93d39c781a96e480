"""The ways to forge: one a file, each registering itself (`evaluation.forgery._registry`)."""
