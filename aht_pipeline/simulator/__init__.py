"""A local AHT API for trying and testing: our second, independent reading of the public documentation."""

from aht_pipeline.simulator.authorisation import Credentials
from aht_pipeline.simulator.calls import CallSegment, CallsFileError, CallTraffic, read_calls
from aht_pipeline.simulator.directory import Directory
from aht_pipeline.simulator.exchange import Endpoint
from aht_pipeline.simulator.fault_specs import GRAMMAR, FaultSpecError, parse_duration, parse_fault
from aht_pipeline.simulator.faults import (
    Cached,
    Capped,
    Cut,
    Deepest,
    Empty,
    ErrorStatus,
    Fault,
    HtmlError,
    Latency,
    Meanwhile,
    Misdated,
    Redirect,
    Reset,
    RevokeTokens,
    Trickle,
    When,
    WrongCount,
)
from aht_pipeline.simulator.generated import GeneratedTraffic
from aht_pipeline.simulator.listing import Style
from aht_pipeline.simulator.observation import RequestRecord
from aht_pipeline.simulator.server import PortTakenError
from aht_pipeline.simulator.simulator import Simulator
from aht_pipeline.simulator.traffic import ExplicitTraffic, Traffic, segment

__all__ = [
    "GRAMMAR",
    "Cached",
    "CallSegment",
    "CallTraffic",
    "CallsFileError",
    "Capped",
    "Credentials",
    "Cut",
    "Deepest",
    "Directory",
    "Empty",
    "Endpoint",
    "ErrorStatus",
    "ExplicitTraffic",
    "Fault",
    "FaultSpecError",
    "GeneratedTraffic",
    "HtmlError",
    "Latency",
    "Meanwhile",
    "Misdated",
    "PortTakenError",
    "Redirect",
    "RequestRecord",
    "Reset",
    "RevokeTokens",
    "Simulator",
    "Style",
    "Traffic",
    "Trickle",
    "When",
    "WrongCount",
    "parse_duration",
    "parse_fault",
    "read_calls",
    "segment",
]
