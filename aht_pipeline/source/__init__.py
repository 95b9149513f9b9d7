"""LivePerson's AHT API: authorisation, domain look-up, one request with its retries, the walk over a day's pages."""

from aht_pipeline.source.pull import DayPull, PageSink

__all__ = ["DayPull", "PageSink"]
