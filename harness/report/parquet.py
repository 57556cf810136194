"""tables.parquet, beside tables.csv: the same rows, with typed columns. Only where pyarrow is installed."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import pandas as pd
from pandas.api.types import is_object_dtype

from harness.runs.writing import write_atomic


def write(frame: pd.DataFrame, path: Path) -> bool:
    """Write the frame; False, and no file, without pyarrow."""
    if find_spec("pyarrow") is None:
        return False
    content = BytesIO()
    typed(frame).to_parquet(content, index=False)
    write_atomic(path, content.getvalue())
    return True


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of objects with a type for each column: numbers, switches, or text where values are of several,
    as a layer is a number or "mean".
    """
    columns = frame.convert_dtypes()
    mixed = [name for name, dtype in columns.dtypes.items() if is_object_dtype(dtype)]
    return columns.astype(dict.fromkeys(mixed, "string"))
