"""A configuration of nbconvert: announces each cell as it starts, and keeps what was executed of a notebook that fails.

nbconvert itself leaves nothing then. The environment variable KEEP_FAILED_NOTEBOOK names the file.
"""

import os
import sys
import time

import nbformat
from nbclient.exceptions import CellExecutionError
from nbconvert.exporters import Exporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, ExecutePreprocessor


class Announcing(ExecutePreprocessor):
    def preprocess(self, nb, resources=None, km=None):
        self.started = time.monotonic()
        try:
            return super().preprocess(nb, resources, km)
        except CellExecutionError:
            nbformat.write(nb, os.environ["KEEP_FAILED_NOTEBOOK"])
            raise

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "code" and cell.source.strip():
            self.announce(cell, index)
        cell, resources = super().preprocess_cell(cell, resources, index)
        # What is printed line by line arrives so.
        return CoalesceStreamsPreprocessor().preprocess_cell(cell, resources, index)

    def announce(self, cell, index):
        elapsed = time.monotonic() - self.started
        first_line = cell.source.strip().splitlines()[0]
        print(f"{elapsed:7.1f} s  cell {index + 1}/{len(self.nb.cells)}  {first_line}", file=sys.stderr, flush=True)


c = get_config()  # noqa: F821
c.Exporter.default_preprocessors = [
    Announcing if name == "nbconvert.preprocessors.ExecutePreprocessor" else name
    for name in Exporter.default_preprocessors.default()
]
