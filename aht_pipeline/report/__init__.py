"""A page about some days of an account, for people who do not write SQL: figures → charts → one HTML file."""

from aht_pipeline.report.figures import Figures, read_figures
from aht_pipeline.report.page import as_html

__all__ = ["Figures", "as_html", "read_figures"]
