"""What Dagster loads: every ``defs.yaml`` below ``release_pipeline/defs``."""

import warnings
from pathlib import Path

import dagster as dg

from release_pipeline import defs as models


@dg.definitions
def defs() -> dg.Definitions:
    """All models' definitions; every run in one process, because a process per step costs more than most steps."""
    # Not load_from_defs_folder, which looks for a pyproject.toml above: there is none where a wheel is installed.
    tree = dg.ComponentTree.from_module(defs_module=models, project_root=Path(__file__).parents[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # of Dagster's links to the lines of a YAML
        return dg.Definitions.merge(tree.build_defs(), dg.Definitions(executor=dg.in_process_executor))
