"""Releases are partitions in Dagster; the ledger outlives its database, so one that it names may be missing there."""

from collections.abc import Iterable

from dagster import DagsterInstance

from release_pipeline.assets.context import ModelContext


def ensure_partitions(instance: DagsterInstance, model: ModelContext, releases: Iterable[str]) -> None:
    """Add the releases that Dagster does not have, because its database, or the partition, was lost.

    It refuses a run of a partition that it does not know, and the whole tick with it: nobody would finish the release,
    or roll it back.
    """
    name = str(model.partitions.name)
    missing = [release for release in releases if not instance.has_dynamic_partition(name, release)]
    if missing:
        instance.add_dynamic_partitions(name, missing)
