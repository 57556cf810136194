"""The study: what layout costs a prefill, on the devices measured; from finished runs to docs/study.

`python -m study RUN_OR_SWEEP ...` keeps the runs' small summaries in docs/study/data, and writes the page and
its figures from that data alone.
"""
