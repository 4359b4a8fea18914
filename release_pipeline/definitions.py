"""What Dagster loads: every ``defs.yaml`` below ``release_pipeline/defs``."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """All models' definitions."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
