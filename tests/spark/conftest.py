"""Real Spark in this process' Java, over the rows of a table in the local workspace."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A local Spark session in UTC with one thread; ANSI mode is on, as in a SQL warehouse."""
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        pytest.fail("pyspark is installed apart: run `make test-all`, or PYTHONPATH=.venv/spark pytest tests/spark")

    folder: Path = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYSPARK_SUBMIT_ARGS", "--conf spark.ui.showConsoleProgress=false pyspark-shell")
        patch.delenv("SPARK_HOME", raising=False)
        session = (
            SparkSession.builder.master("local[1]")
            .appName("release-pipeline-tests")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.sql.ansi.enabled", "true")
            .config("spark.sql.shuffle.partitions", "1")
            .config("spark.sql.warehouse.dir", str(folder))
            .config("spark.local.dir", str(folder))
            .config("spark.driver.memory", "1g")
            # Compiling Java for each statement takes longer than interpreting it over some hundred rows.
            .config("spark.sql.codegen.wholeStage", "false")
            .config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()
