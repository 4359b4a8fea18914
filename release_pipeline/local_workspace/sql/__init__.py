"""Databricks SQL over one DuckDB file: translated, versioned, and confined to the workspace's own tables."""
