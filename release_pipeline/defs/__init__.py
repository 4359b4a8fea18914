"""The releases of this project: one folder per model, each with its `defs.yaml`."""
