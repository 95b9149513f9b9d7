"""Raw pages of the API → typed frames and rejects: a pure function, in constant memory."""

from aht_pipeline.normalize.batches import find_superseded, normalize
from aht_pipeline.normalize.schema import END_REASONS, QUALITY_FLAGS, SEGMENT_SCHEMA, Reject, SegmentBatch

__all__ = [
    "END_REASONS",
    "QUALITY_FLAGS",
    "SEGMENT_SCHEMA",
    "Reject",
    "SegmentBatch",
    "find_superseded",
    "normalize",
]
