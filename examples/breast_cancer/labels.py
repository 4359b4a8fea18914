"""A clinic: asks the endpoint about lumps that the model was not trained on, and learns the truth later.

`python labels.py` sends requests at a steady rate, each with an id of its own as its `client_request_id`. Some seconds
later the truth is written under that id, as a laboratory would do it days later. The workspace and its credentials are
what the Databricks SDK finds in the environment; DATABRICKS_WAREHOUSE_ID may name the SQL warehouse.
"""

import argparse
import os
import random
import time
import uuid
from collections import deque

from databricks.sdk import WorkspaceClient
from databricks.sdk.service.sql import StatementParameterListItem, StatementState
from sklearn.datasets import load_breast_cancer

ASKED_ABOUT = slice(3, None, 4)  # model.py is trained on rows 0, 2, 4, ...; evaluation.jsonl is from rows 1, 5, 9, ...
ROWS_PER_STATEMENT = 50


def execute(client: WorkspaceClient, statement: str, **values: str) -> None:
    """Run a statement with its values bound by name.

    Raises:
        RuntimeError: The warehouse did not run it.
    """
    warehouse = os.environ.get("DATABRICKS_WAREHOUSE_ID") or str(next(iter(client.warehouses.list())).id)
    bound = [StatementParameterListItem(name=name, value=value) for name, value in values.items()]
    done = client.statement_execution.execute_statement(statement, warehouse, parameters=bound, wait_timeout="50s")
    if done.status is None or done.status.state is not StatementState.SUCCEEDED:
        raise RuntimeError(f"the warehouse answered {done.status}; look into its query history")


def write_truth(client: WorkspaceClient, table: str, truth: list[tuple[str, bool]]) -> None:
    """Append what the laboratory found: the id of a request, and whether the lump is malignant."""
    for start in range(0, len(truth), ROWS_PER_STATEMENT):
        part = truth[start : start + ROWS_PER_STATEMENT]
        rows = ", ".join(f"(:id_{n}, CAST(:malignant_{n} AS BOOLEAN))" for n in range(len(part)))
        values = {f"id_{n}": request_id for n, (request_id, _) in enumerate(part)}
        values |= {f"malignant_{n}": str(malignant).lower() for n, (_, malignant) in enumerate(part)}
        execute(client, f"INSERT INTO {table} (request_id, malignant) VALUES {rows}", **values)


def run(endpoint: str, table: str, requests: int, per_second: float, delay_seconds: float) -> None:
    """Send so many requests, and write the truth about each of them after the delay."""
    client, chance = WorkspaceClient(), random.Random()
    execute(client, f"CREATE TABLE IF NOT EXISTS {table} (request_id STRING, malignant BOOLEAN)")
    data = load_breast_cancer(as_frame=True)
    lumps, malignant = data.data[ASKED_ABOUT].to_dict("records"), (data.target[ASKED_ABOUT] == 0).tolist()
    waiting: deque[tuple[float, str, bool]] = deque()

    def write(before: float) -> None:
        due = []
        while waiting and waiting[0][0] <= before:
            due.append(waiting.popleft()[1:])
        write_truth(client, table, due)

    begun = time.monotonic()
    for sent in range(requests):
        time.sleep(max(0.0, begun + sent / per_second - time.monotonic()))
        number, request_id = chance.randrange(len(lumps)), str(uuid.uuid4())
        client.serving_endpoints.query(endpoint, dataframe_records=[lumps[number]], client_request_id=request_id)
        waiting.append((time.monotonic() + delay_seconds, request_id, malignant[number]))
        if sum(due <= time.monotonic() for due, _, _ in waiting) >= ROWS_PER_STATEMENT:
            write(time.monotonic())
    if waiting:
        time.sleep(max(0.0, waiting[-1][0] - time.monotonic()))
        write(time.monotonic())


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="breast_cancer", help="whom to ask")
    parser.add_argument("--table", default="main.default.biopsies", help="where the truth is written")
    parser.add_argument("--requests", type=int, default=1000, help="how many requests")
    parser.add_argument("--rate", type=float, default=10.0, help="requests per second, at most")
    parser.add_argument("--delay", type=float, default=20.0, help="seconds until the truth about a request is known")
    options = parser.parse_args()
    run(options.endpoint, options.table, options.requests, options.rate, options.delay)


if __name__ == "__main__":
    main()
