"""Releases of models and agents to Databricks Model Serving, as Dagster assets.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from release_pipeline.component import ReleasePipelineComponent
    from release_pipeline.spec import ReleaseSpec, parse_spec

__all__ = ["ReleasePipelineComponent", "ReleaseSpec", "parse_spec"]


def __dir__() -> list[str]:
    # Dagster looks for components by dir().
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    if name == "ReleasePipelineComponent":
        from release_pipeline.component import ReleasePipelineComponent

        return ReleasePipelineComponent
    if name in ("ReleaseSpec", "parse_spec"):
        from release_pipeline import spec

        return getattr(spec, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
