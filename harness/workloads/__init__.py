"""Users' own work: files of prompts, pairs or traces as requests, and the layouts that traffic makes."""

from harness.workloads.cases import case_lengths
from harness.workloads.reading import FORMATS, PAIRS, TEXTS, TRACES, is_records, parse_work, read_work
from harness.workloads.work import ORDERS, Order, Skipped, Work, WorkError, WorkRequest

__all__ = [
    "FORMATS", "ORDERS", "PAIRS", "TEXTS", "TRACES", "Order", "Skipped", "Work", "WorkError", "WorkRequest",
    "case_lengths", "is_records", "parse_work", "read_work",
]  # fmt: skip
