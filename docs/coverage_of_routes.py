"""Which client call uses each route of the local workspace, and which test makes that call."""

_SERVING = "/api/2.0/serving-endpoints"
_MODELS = "/api/2.0/mlflow/unity-catalog/registered-models"
_VERSIONS = "/api/2.0/mlflow/unity-catalog/model-versions"
_UC = "/api/2.1/unity-catalog"
_SQL = "/api/2.0/sql"
_SCIM = "/api/2.0/preview/scim/v2"

# Route: (call, file below tests/local_workspace). What stands in backticks as a call is in the code of that file, which
# tests/docs/test_coverage_of_routes.py looks up; other words say how the route is used. No route is without a test.
COVERAGE: dict[str, tuple[str, str]] = {
    "POST /serving-endpoints/{name}/invocations": ("`serving_endpoints.query`", "test_queries.py"),
    "POST /serving-endpoints/{name}/served-models/{entity}/invocations": ("`/served-models/`", "test_queries.py"),
    "POST /serving-endpoints/responses": ("OpenAI `responses.create`", "test_openai_client.py"),
    "POST /serving-endpoints/chat/completions": ("OpenAI `chat.completions`", "test_openai_client.py"),
    f"POST {_SERVING}": ("`serving_endpoints.create_and_wait`", "test_endpoints.py"),
    f"GET {_SERVING}": ("`serving_endpoints.list`", "test_endpoints.py"),
    f"POST {_SERVING}/": ("mlflow deployments `create_endpoint`", "test_deployments_client.py"),
    f"GET {_SERVING}/": ("mlflow deployments `list_endpoints`", "test_deployments_client.py"),
    f"GET {_SERVING}/{{name}}": ("`serving_endpoints.get`", "test_endpoints.py"),
    f"DELETE {_SERVING}/{{name}}": ("`serving_endpoints.delete`", "test_endpoints.py"),
    f"PUT {_SERVING}/{{name}}/config": ("`serving_endpoints.update_config_and_wait`", "test_endpoints.py"),
    f"PATCH {_SERVING}/{{name}}/tags": ("`serving.patch`", "test_endpoint_settings.py"),
    f"PUT {_SERVING}/{{name}}/ai-gateway": ("`serving_endpoints.put_ai_gateway`", "test_endpoint_settings.py"),
    f"PUT {_SERVING}/{{name}}/rate-limits": (
        "`serving_endpoints.put`, the older way to limit rates",
        "test_unlogged_requests.py",
    ),
    f"PATCH {_SERVING}/{{name}}/description": ("`/description`", "test_endpoint_settings.py"),
    f"GET {_SERVING}/{{name}}/served-models/{{entity}}/logs": ("`serving_endpoints.logs`", "test_endpoints.py"),
    f"GET {_SERVING}/{{name}}/served-models/{{entity}}/build-logs": (
        "`serving_endpoints.build_logs`",
        "test_endpoints.py",
    ),
    f"GET {_SERVING}/{{name}}/metrics": ("`serving_endpoints.export_metrics`", "test_endpoint_settings.py"),
    f"GET {_SERVING}/{{name}}/openapi": ("`serving_endpoints.get_open_api`", "test_endpoint_settings.py"),
    "GET /api/2.0/permissions/serving-endpoints/{id}": ("`get_permissions`", "test_endpoint_settings.py"),
    "PATCH or PUT /api/2.0/permissions/serving-endpoints/{id}": (
        "`update_permissions`, `set_permissions`",
        "test_endpoint_settings.py",
    ),
    "GET /api/2.0/permissions/serving-endpoints/{id}/permissionLevels": (
        "`get_permission_levels`",
        "test_endpoint_settings.py",
    ),
    f"POST {_SQL}/statements": ("`execute_statement`", "test_statements.py"),
    f"POST {_SQL}/statements/": ("`execute_statement`", "test_statements.py"),
    f"GET {_SQL}/statements/{{statement_id}}": ("`get_statement`", "test_statements.py"),
    f"GET {_SQL}/statements/{{statement_id}}/result/chunks/{{index:int}}": (
        "`get_statement_result_chunk_n`",
        "test_statements.py",
    ),
    f"POST {_SQL}/statements/{{statement_id}}/cancel": ("`cancel_execution`", "test_statements.py"),
    f"GET {_SQL}/warehouses": ("`warehouses.list`", "test_statements.py"),
    f"GET {_SQL}/warehouses/{{warehouse_id}}": ("`warehouses.get`", "test_statements.py"),
    f"GET {_UC}/tables": ("`tables.list`", "test_tables.py"),
    f"GET {_UC}/tables/{{full_name}}": ("`tables.get`", "test_tables.py"),
    f"GET {_UC}/tables/{{full_name}}/exists": ("`tables.exists`", "test_tables.py"),
    f"GET {_MODELS}:is-databricks-sdk-models-artifact-repository-enabled": (
        "asked within `register_model`",
        "test_registry.py",
    ),
    f"POST {_MODELS}/create": ("`create_registered_model`", "test_registry.py"),
    f"GET {_MODELS}/get": ("`get_registered_model`", "test_registry.py"),
    f"GET {_MODELS}/search": ("`search_registered_models`", "test_registry.py"),
    f"PATCH {_MODELS}/update": ("`update_registered_model`", "test_registry.py"),
    f"DELETE {_MODELS}/delete": ("`delete_registered_model`", "test_registry.py"),
    f"GET {_MODELS}/alias": ("`get_model_version_by_alias`", "test_registry.py"),
    f"POST {_MODELS}/alias": ("`set_registered_model_alias`", "test_registry.py"),
    f"DELETE {_MODELS}/alias": ("`delete_registered_model_alias`", "test_registry.py"),
    f"POST {_MODELS}/set-tag": ("`set_registered_model_tag`", "test_registry.py"),
    f"DELETE {_MODELS}/delete-tag": ("`delete_registered_model_tag`", "test_registry.py"),
    f"POST {_VERSIONS}/create": ("`register_model`", "test_registry.py"),
    f"POST {_VERSIONS}/finalize": ("sent within `register_model`", "test_registry.py"),
    f"GET {_VERSIONS}/get": ("`get_model_version`", "test_registry.py"),
    f"GET {_VERSIONS}/search": ("`search_model_versions`", "test_registry.py"),
    f"GET {_VERSIONS}/get-download-uri": ("asked within `load_model`", "test_registry.py"),
    f"PATCH {_VERSIONS}/update": ("`update_model_version`", "test_registry.py"),
    f"DELETE {_VERSIONS}/delete": ("`delete_model_version`", "test_registry.py"),
    f"POST {_VERSIONS}/set-tag": ("`set_model_version_tag`", "test_registry.py"),
    f"DELETE {_VERSIONS}/delete-tag": ("`delete_model_version_tag`", "test_registry.py"),
    f"POST {_VERSIONS}/emit-lineage": (
        "`emit_model_version_lineage`, which mlflow sends when a job or notebook on Databricks loads a version",
        "test_calls_of_mlflow_itself.py",
    ),
    "GET /api/2.0/fs/files{path:path}": ("`files.download`", "test_files.py"),
    "PUT /api/2.0/fs/files{path:path}": ("`files.upload`", "test_files.py"),
    "DELETE /api/2.0/fs/files{path:path}": ("`files.delete`", "test_files.py"),
    "POST /api/2.0/fs/files{path:path}": ("begins a large `files.upload`", "test_files.py"),
    "GET /api/2.0/fs/directories{path:path}": ("`files.list_directory_contents`", "test_files.py"),
    "PUT /api/2.0/fs/directories{path:path}": ("`files.create_directory`", "test_files.py"),
    "DELETE /api/2.0/fs/directories{path:path}": ("`files.delete_directory`", "test_files.py"),
    "POST /api/2.0/fs/create-download-url": ("`create-download-url`", "test_files.py"),
    "GET /presigned/files{path:path}": ("follows the link of `create-download-url`", "test_files.py"),
    "GET /.well-known/databricks-config": ("`databricks-config`", "test_identity.py"),
    "GET /api/2.0/preview/scim/v2/Me": ("`current_user.me`", "test_identity.py"),
    **{
        f"{method} {_SCIM}/{kind}{path}": (f"`{client}.{call}`", "test_principals.py")
        for kind, client in (("Users", "users_v2"), ("ServicePrincipals", "service_principals_v2"))
        for method, path, call in (
            ("GET", "", "list"),
            ("POST", "", "create"),
            ("GET", "/{id}", "get"),
            ("DELETE", "/{id}", "delete"),
        )
    },
    "POST /api/2.0/token-management/on-behalf-of/tokens": ("`create_obo_token`", "test_principals.py"),
    "GET /api/2.0/permissions/warehouses/{id}": ("`warehouses.get_permissions`", "test_principals.py"),
    "PATCH or PUT /api/2.0/permissions/warehouses/{id}": (
        "`warehouses.update_permissions`, `warehouses.set_permissions`",
        "test_principals.py",
    ),
    "GET /api/2.0/permissions/warehouses/{id}/permissionLevels": (
        "`warehouses.get_permission_levels`",
        "test_principals.py",
    ),
    "POST /local/tokens": ("`/local/tokens`", "test_endpoint_permissions.py"),
    **{
        f"{method} /api/2.0/secrets/{path}": (f"`client.secrets.{call}`", "test_secrets.py")
        for method, path, call in (
            ("POST", "scopes/create", "create_scope"),
            ("GET", "scopes/list", "list_scopes"),
            ("POST", "scopes/delete", "delete_scope"),
            ("POST", "put", "put_secret"),
            ("GET", "get", "get_secret"),
            ("GET", "list", "list_secrets"),
            ("POST", "delete", "delete_secret"),
            ("POST", "acls/put", "put_acl"),
            ("POST", "acls/delete", "delete_acl"),
            ("GET", "acls/get", "get_acl"),
            ("GET", "acls/list", "list_acls"),
        )
    },
    "GET /openapi.json": ("`/openapi.json`, then every route that it describes", "test_fuzzed_routes.py"),
    "GET /local/faults": ("`/local/faults`, read", "test_faults.py"),
    "GET /local/resources": ("`/local/resources`, read", "test_known_resources.py"),
    "PATCH /local/resources": ("`/local/resources`", "test_known_resources.py"),
    "GET /api/2.0/vector-search/indexes/{name}": ("`vector_search_indexes.get_index`", "test_known_resources.py"),
    f"GET {_UC}/connections/{{name}}": ("`connections.get`", "test_known_resources.py"),
    f"GET {_UC}/functions/{{name}}": ("`functions.get`", "test_known_resources.py"),
    **{
        f"{method} /api/2.0/permissions/{kind}/{{id}}{path}": (f"`permissions.{call}`", "test_known_resources.py")
        for kind in ("genie", "apps", "database-instances")
        for method, path, call in (
            ("GET", "", "get"),
            ("PATCH or PUT", "", "update"),
            ("GET", "/permissionLevels", "get_permission_levels"),
        )
    },
    "GET /review/{endpoint}": ("a browser, and `/review/`", "test_pages.py"),
    **{
        f"GET {path}": ("a browser, and `SHOWN`", "test_pages.py")
        for path in (
            "/",
            "/ml/endpoints/{endpoint}",
            "/ml/experiments/{experiment}",
            "/ml/experiments/{experiment}/traces",
            "/ml/experiments/{experiment}/evaluation-runs",
            "/ml/experiments/{experiment}/runs/{run}",
            "/explore/data/{catalog}/{schema}/{table}",
            "/explore/data/models/{catalog}/{schema}/{model}",
            "/explore/data/models/{catalog}/{schema}/{model}/version/{version}",
        )
    },
    "GET /pages/{file}": ("the pages, and `/pages/`", "test_pages.py"),
    "PATCH /local/faults": ("`set_faults`", "test_faults.py"),
    f"GET {_UC}/catalogs": ("`catalogs.list`", "test_permissions.py"),
    f"GET {_UC}/catalogs/{{name}}": ("`catalogs.get`", "test_permissions.py"),
    f"GET {_UC}/schemas": ("`schemas.list`", "test_permissions.py"),
    f"GET {_UC}/schemas/{{full_name}}": ("`schemas.get`", "test_permissions.py"),
    f"GET {_UC}/models/{{full_name}}": ("`registered_models.get`", "test_permissions.py"),
    f"GET {_UC}/permissions/{{type}}/{{full_name}}": ("`grants.get`", "test_permissions.py"),
    f"PATCH {_UC}/permissions/{{type}}/{{full_name}}": ("`grants.update`", "test_permissions.py"),
    f"GET {_UC}/effective-permissions/{{type}}/{{full_name}}": ("`grants.get_effective`", "test_permissions.py"),
    "any /api/2.0/mlflow/{rest:path}": ("`start_run`, and all of mlflow's tracking", "test_tracking.py"),
    "any /api/3.0/mlflow/{rest:path}": ("`search_traces`, and mlflow's newer calls", "test_tracking.py"),
}
