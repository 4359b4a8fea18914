"""The links that the asset deployed_endpoint shows."""

import dagster as dg

from release_pipeline.report.metadata import link_metadata
from release_pipeline.workspace.links import Links

HOST = "https://example.cloud.databricks.com"


def test_links_can_be_clicked_and_one_that_is_not_known_is_left_out() -> None:
    links = Links(
        f"{HOST}/ml/endpoints/a", f"{HOST}/serving-endpoints/a/invocations", f"{HOST}/review", f"{HOST}/traces"
    )
    shown = link_metadata(links)
    assert {name: value.url for name, value in shown.items() if isinstance(value, dg.UrlMetadataValue)} == {
        "endpoint": links.endpoint,
        "review": links.review,
        "traces": links.traces,
    }
    assert shown["query_url"] == links.query
    assert "traces" not in link_metadata(Links(links.endpoint, links.query, links.review, None))
