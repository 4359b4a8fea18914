"""What is known of Dagster's Helm chart: the keys that the values here use, and what the chart makes of them.

The keys and types are those of the chart's values schema, and :func:`instance` does what its template of the
instance's ConfigMap does (``helm/dagster/schema/schema/charts`` and ``helm/dagster/templates`` in the repository
dagster-io/dagster). Only what ``deploy/values.yaml`` uses is here: the chart itself is not on a test's machine.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

#: A key's type; ``...`` stands for an object that Kubernetes defines, and a list for a list of what it has.
RESOURCES: Final = {"requests": ..., "limits": ...}
DAYS: Final = {"purgeAfterDays": {"skipped": int, "success": int, "failure": int, "started": int}}
CHART: Final[Mapping[str, Any]] = {
    "global": {"postgresqlSecretName": str},
    "dagster-user-deployments": {
        "enabled": bool,
        "enableSubchart": bool,
        "deployments": [
            {
                "name": str,
                "image": {"repository": str, "tag": str, "pullPolicy": ("Always", "IfNotPresent", "Never")},
                "dagsterApiGrpcArgs": [str],
                "port": int,
                "includeConfigInLaunchedRuns": {"enabled": bool},
                "env": ...,
                "envSecrets": [{"name": str}],
                "resources": RESOURCES,
                "podSecurityContext": ...,
                "securityContext": ...,
            }
        ],
    },
    "dagsterWebserver": {"replicaCount": int, "enableReadOnly": bool, "resources": RESOURCES},
    "dagsterDaemon": {
        "resources": RESOURCES,
        "runCoordinator": {
            "enabled": bool,
            "type": ("QueuedRunCoordinator", "CustomRunCoordinator"),
            "config": {
                "queuedRunCoordinator": {
                    "maxConcurrentRuns": (int, None),
                    "tagConcurrencyLimits": [...],
                    "dequeueIntervalSeconds": int,
                }
            },
        },
        "runRetries": {"enabled": bool, "maxRetries": int},
        "runMonitoring": {
            "enabled": bool,
            "startTimeoutSeconds": int,
            "cancelTimeoutSeconds": int,
            "maxRuntimeSeconds": int,
            "maxResumeRunAttempts": int,
            "pollIntervalSeconds": int,
            "freeSlotsAfterRunEndSeconds": int,
        },
        "sensors": {"useThreads": bool, "numWorkers": int},
    },
    "concurrency": {
        "enabled": bool,
        "runs": {"maxConcurrentRuns": int, "tagConcurrencyLimits": [{"key": str, "value": ..., "limit": int}]},
        "pools": {"defaultLimit": int, "granularity": ("run", "op")},
    },
    "runLauncher": {
        "type": ("K8sRunLauncher", "CeleryK8sRunLauncher", "CustomRunLauncher"),
        "config": {
            "k8sRunLauncher": {"imagePullPolicy": ("Always", "IfNotPresent", "Never"), "loadInclusterConfig": bool}
        },
    },
    "retention": {"enabled": bool, "sensor": DAYS, "schedule": DAYS},
    "postgresql": {
        "enabled": bool,
        "postgresqlScheme": str,
        "postgresqlHost": str,
        "postgresqlUsername": str,
        "postgresqlDatabase": str,
        "postgresqlParams": ...,
        "service": {"port": int},
    },
    "generatePostgresqlPasswordSecret": bool,
    "generateCeleryConfigSecret": bool,
    "rabbitmq": {"enabled": bool},
    "redis": {"enabled": bool},
    "flower": {"enabled": bool},
    "telemetry": {"enabled": bool},
    "additionalInstanceConfig": ...,
}


def problems(values: Any, known: Any = CHART, where: str = "values") -> Iterator[str]:
    """What the chart would refuse, or pass over in silence: keys that it does not know, values of another type."""
    if known is ...:
        return
    if isinstance(known, Mapping):
        if not isinstance(values, Mapping):
            yield f"{where} is no mapping"
            return
        for key, value in values.items():
            if key not in known:
                yield f"{where}.{key} is not known to the chart"
            else:
                yield from problems(value, known[key], f"{where}.{key}")
    elif isinstance(known, list):
        if not isinstance(values, list):
            yield f"{where} is no list"
            return
        for index, value in enumerate(values):
            yield from problems(value, known[0], f"{where}[{index}]")
    elif isinstance(known, tuple):
        if values not in known and type(values) not in known:
            yield f"{where} is {values!r}"
    elif type(values) is not known:
        yield f"{where} is {values!r}, not {known.__name__}"


def instance(values: Mapping[str, Any]) -> dict[str, Any]:
    """The ``dagster.yaml`` that the chart writes; what comes from its own ConfigMaps as references to variables."""
    daemon, concurrency, pg = values["dagsterDaemon"], values["concurrency"], values["postgresql"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert concurrency["enabled"], "else the chart leaves the whole block out"
    twice = [key for key in ("maxConcurrentRuns", "tagConcurrencyLimits") if queue[key]]
    assert twice == [], "the chart fails where both have limits"
    storage = {
        "postgres_db": {
            "username": pg["postgresqlUsername"],
            "password": {"env": "DAGSTER_PG_PASSWORD"},
            "hostname": pg["postgresqlHost"],
            "db_name": pg["postgresqlDatabase"],
            "port": pg["service"]["port"],
            "params": pg["postgresqlParams"],
            "scheme": pg["postgresqlScheme"],
        }
    }
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    retries = daemon["runRetries"]
    return {
        "run_storage": {"module": "dagster_postgres.run_storage", "class": "PostgresRunStorage", "config": storage},
        "event_log_storage": {
            "module": "dagster_postgres.event_log",
            "class": "PostgresEventLogStorage",
            "config": storage,
        },
        "schedule_storage": {
            "module": "dagster_postgres.schedule_storage",
            "class": "PostgresScheduleStorage",
            "config": storage,
        },
        "run_launcher": {
            "module": "dagster_k8s",
            "class": values["runLauncher"]["type"],
            "config": {
                "load_incluster_config": launcher["loadInclusterConfig"],
                "image_pull_policy": launcher["imagePullPolicy"],
                "dagster_home": {"env": "DAGSTER_HOME"},
                "instance_config_map": {"env": "DAGSTER_K8S_INSTANCE_CONFIG_MAP"},
                "postgres_password_secret": {"env": "DAGSTER_K8S_PG_PASSWORD_SECRET"},
                "env_config_maps": [{"env": "DAGSTER_K8S_PIPELINE_RUN_ENV_CONFIGMAP"}],
            },
        },
        "run_coordinator": {
            "module": "dagster._core.run_coordinator",
            "class": daemon["runCoordinator"]["type"],
            "config": {"dequeue_interval_seconds": queue["dequeueIntervalSeconds"]},
        },
        "concurrency": {
            "runs": {
                "max_concurrent_runs": concurrency["runs"]["maxConcurrentRuns"],
                "tag_concurrency_limits": concurrency["runs"]["tagConcurrencyLimits"],
            },
            "pools": {
                "default_limit": concurrency["pools"]["defaultLimit"],
                "granularity": concurrency["pools"]["granularity"],
            },
        },
        "run_monitoring": snake(daemon["runMonitoring"]),
        # A limit of zero is left out by the template; it is Dagster's default, too.
        "run_retries": snake({key: value for key, value in retries.items() if key == "enabled" or value}),
        "sensors": snake(daemon["sensors"]),
        "retention": snake({kind: values["retention"][kind] for kind in ("sensor", "schedule")}),
        "telemetry": values["telemetry"],
        **values["additionalInstanceConfig"],
    }


def snake(values: Any) -> Any:
    """The keys as Dagster spells them."""
    if not isinstance(values, Mapping):
        return values
    return {"".join(f"_{c.lower()}" if c.isupper() else c for c in key): snake(each) for key, each in values.items()}
