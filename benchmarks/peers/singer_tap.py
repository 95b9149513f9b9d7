"""The segments of a span as Singer messages on stdout, as fast as a tap can be: one request after the other, no SDK."""

from __future__ import annotations

import json
import os
import sys

import requests

TEXT, WHOLE = {"type": ["string", "null"]}, {"type": ["integer", "null"]}
MOMENT = {"type": ["string", "null"], "format": "date-time"}
SCHEMA = {
    "type": "object",
    "properties": {
        "segmentId": {"type": "string"},
        "startTime": MOMENT,
        "startTimeL": WHOLE,
        "endTime": MOMENT,
        "endTimeL": WHOLE,
        "conversationId": TEXT,
        "agentId": WHOLE,
        "employeeId": TEXT,
        "skillId": WHOLE,
        "groupId": WHOLE,
        "endReason": TEXT,
        "totalHandleTimeMillis": WHOLE,
    },
}

api, account = os.environ["LIVEPERSON_API_URL"], os.environ["LIVEPERSON_ACCOUNT_ID"]


def say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")


with requests.Session() as session:
    grant = {
        "grant_type": "client_credentials",
        "client_id": os.environ["LIVEPERSON_CLIENT_ID"],
        "client_secret": os.environ["LIVEPERSON_CLIENT_SECRET"],
    }
    token = session.post(f"{api}/sentinel/api/v2/account/{account}/app/token", grant, timeout=60).json()
    session.headers["Authorization"] = f"Bearer {token['access_token']}"

    say(type="SCHEMA", stream="agent_segments", schema=SCHEMA, key_properties=["segmentId"])
    asked = {"source": "bench", "fromMillis": os.environ["FROM_MS"], "toMillis": os.environ["TO_MS"], "limit": "500"}
    offset, count = 0, 1
    while offset < count:
        answer = session.get(
            f"{api}/api/account/{account}/agent-segments", params={**asked, "offset": str(offset)}, timeout=60
        )
        answer.raise_for_status()
        page = answer.json()
        count = page["pagination"]["count"]
        for segment in page["segments"]:
            say(type="RECORD", stream="agent_segments", record=segment)
        offset += len(page["segments"]) or count
    say(type="STATE", value={"to": os.environ["TO_MS"]})
