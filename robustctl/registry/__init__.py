"""The model registry: entries, the hub, conversion and model cards."""
