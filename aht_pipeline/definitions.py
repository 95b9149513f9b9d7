"""The code location that Dagster loads: the pipeline's definitions for the settings of its environment."""

from aht_pipeline.defs import build_defs
from aht_pipeline.settings import read_settings

defs = build_defs(read_settings())
