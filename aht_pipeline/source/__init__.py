"""LivePerson's APIs: authorisation, domain look-up, one request with its retries, a day's pages, names for its ids."""

from aht_pipeline.source.api import SORT_ORDERS, AhtApi, SegmentQuery
from aht_pipeline.source.errors import ApiError, Forgotten, NotBelieved, Refused, Unproved
from aht_pipeline.source.names import Name, NameKind, NameList, read_names
from aht_pipeline.source.prove import Proof, prove
from aht_pipeline.source.pull import DayPull, pull_day
from aht_pipeline.source.retries import Pacing
from aht_pipeline.source.walk import PageSink

__all__ = [
    "SORT_ORDERS",
    "AhtApi",
    "ApiError",
    "DayPull",
    "Forgotten",
    "Name",
    "NameKind",
    "NameList",
    "NotBelieved",
    "Pacing",
    "PageSink",
    "Proof",
    "Refused",
    "SegmentQuery",
    "Unproved",
    "prove",
    "pull_day",
    "read_names",
]
