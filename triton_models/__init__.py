"""The neural networks that Triton serves: their configurations, model cards and where their weights come from."""
