"""LivePerson's services that are asked, by the Domain API's names, and the variable that gives the URL of each."""

from __future__ import annotations

ACCOUNT_CONFIG = "accountConfigReadOnly"
AGENT_ACTIVITY = "agentActivityDomain"
SENTINEL = "sentinel"

URL_VARIABLES = {
    AGENT_ACTIVITY: "LIVEPERSON_AGENT_ACTIVITY_URL",
    SENTINEL: "LIVEPERSON_SENTINEL_URL",
    ACCOUNT_CONFIG: "LIVEPERSON_ACCOUNT_CONFIG_URL",
}
"""Each wins over LIVEPERSON_API_URL, which wins over the Domain API."""
