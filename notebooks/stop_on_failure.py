"""Makes `jupyter nbconvert --execute` stop at the panics and `?` errors of Rust cells.

The Rust kernel answers "ok" to both, so nbconvert would go on and exit with 0. Only their message on stderr
tells of them. With this configuration a cell that writes to stderr fails, unless it has the tag `raises-exception`:

    jupyter nbconvert --execute --to html --config notebooks/stop_on_failure.py notebooks/my.ipynb

Each cell is announced as it starts. A failed run leaves what was executed in the file that the environment
variable KEEP_FAILED_NOTEBOOK names: nbconvert itself leaves nothing.
"""

import os
import queue
import sys
import time

import nbformat
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellExecutionError
from nbconvert.exporters import Exporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, ExecutePreprocessor

# Seconds. The kernel sends stderr by a way of its own, up to some hundredths after it has said that the cell is done.
LATE = 0.1


class StopOnFailure(ExecutePreprocessor):
    def preprocess(self, nb, resources=None, km=None):
        self.started = time.monotonic()
        try:
            return super().preprocess(nb, resources, km)
        except CellExecutionError:
            if path := os.environ.get("KEEP_FAILED_NOTEBOOK"):
                nbformat.write(nb, path)
            raise

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type != "code" or not cell.source.strip():
            return cell, resources
        self.announce(cell, index)
        try:
            cell, resources = super().preprocess_cell(cell, resources, index)
        except CellExecutionError:
            # The kernel's answer does not say what the compiler said, but the outputs do.
            said = [line for output in cell.outputs for line in output.get("traceback", [])]
            raise CellExecutionError.from_cell_and_msg(cell, {"traceback": said}) from None
        self.take_late_outputs(cell, index)
        # The kernel sends every line as an output of its own.
        cell, resources = CoalesceStreamsPreprocessor().preprocess_cell(cell, resources, index)
        on_stderr = any(output.get("name") == "stderr" for output in cell.outputs)
        if on_stderr and "raises-exception" not in cell.metadata.get("tags", []):
            raise CellExecutionError.from_cell_and_msg(cell, {})
        return cell, resources

    def announce(self, cell, index):
        elapsed = time.monotonic() - self.started
        first_line = cell.source.strip().splitlines()[0]
        print(f"{elapsed:7.1f} s  cell {index + 1}/{len(self.nb.cells)}  {first_line}", file=sys.stderr, flush=True)

    def take_late_outputs(self, cell, index):
        while True:
            try:
                message = run_sync(self.kc.get_iopub_msg)(timeout=LATE)
            except queue.Empty:
                return
            if message["msg_type"] == "stream":
                self.process_message(message, cell, index)


c = get_config()  # noqa: F821
c.Exporter.default_preprocessors = [
    StopOnFailure if name == "nbconvert.preprocessors.ExecutePreprocessor" else name
    for name in Exporter.default_preprocessors.default()
]
