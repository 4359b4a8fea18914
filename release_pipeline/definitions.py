"""What Dagster loads: every ``defs.yaml`` below ``release_pipeline/defs``."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """All models' definitions; every run in one process, because a process per step costs more than most steps."""
    models = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(models, dg.Definitions(executor=dg.in_process_executor))
