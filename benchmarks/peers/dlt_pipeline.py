"""The segments of a span by dlt: its REST API source, and its Postgres destination with a merge by upsert."""

from __future__ import annotations

import os

import dlt
from dlt.sources.rest_api import rest_api_source

api, account = os.environ["LIVEPERSON_API_URL"], os.environ["LIVEPERSON_ACCOUNT_ID"]

source = rest_api_source(
    {
        "client": {
            "base_url": api,
            "auth": {
                "type": "oauth2_client_credentials",
                "access_token_url": f"{api}/sentinel/api/v2/account/{account}/app/token",
                "client_id": os.environ["LIVEPERSON_CLIENT_ID"],
                "client_secret": os.environ["LIVEPERSON_CLIENT_SECRET"],
            },
            "paginator": {"type": "offset", "limit": 500, "total_path": "pagination.count"},
        },
        "resources": [
            {
                "name": "agent_segments",
                "primary_key": "segmentId",
                "write_disposition": {"disposition": "merge", "strategy": "upsert"},
                "endpoint": {
                    "path": f"api/account/{account}/agent-segments",
                    "params": {"source": "bench", "fromMillis": os.environ["FROM_MS"], "toMillis": os.environ["TO_MS"]},
                    "data_selector": "segments",
                },
            }
        ],
    }
)
pipeline = dlt.pipeline("aht", destination="postgres", dataset_name="dlt_aht")
# By COPY, as the destination's page says for speed; its default is INSERT.
pipeline.run(source, loader_file_format="csv").raise_on_failed_jobs()
