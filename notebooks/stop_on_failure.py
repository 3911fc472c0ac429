"""Makes `jupyter nbconvert --execute` stop at the panics and `?` errors of Rust cells.

The Rust kernel answers "ok" to both, so nbconvert would go on and exit with 0. All that tells of them is
their message on stderr. With this configuration a cell that writes to stderr fails:

    jupyter nbconvert --execute --to html --config notebooks/stop_on_failure.py notebooks/my.ipynb

A cell with the tag `raises-exception` may fail, as in nbconvert without it. Each cell is announced as it starts.
"""

import os
import sys
import time

import nbformat

started = time.monotonic()
running = None


def remember(notebook):
    global running
    running = notebook


def announce(cell, cell_index):
    elapsed = time.monotonic() - started
    first_line = cell.source.strip().splitlines()[0]
    print(f"{elapsed:6.1f} s  cell {cell_index + 1}/{len(running.cells)}  {first_line}", file=sys.stderr, flush=True)


def fail_on_stderr(cell, cell_index, execute_reply):
    said = "".join(output.text for output in cell.outputs if output.get("name") == "stderr")
    if said and execute_reply["content"]["status"] == "ok":
        execute_reply["content"].update(status="error", ename="Panic or `?` error", evalue=said)


def keep_what_was_executed(cell, cell_index, execute_reply):
    """Writes the notebook as far as it came, for reading: nbconvert itself leaves nothing of a failed run."""
    if path := os.environ.get("KEEP_FAILED_NOTEBOOK"):
        nbformat.write(running, path)


c = get_config()  # noqa: F821
c.ExecutePreprocessor.on_notebook_start = remember
c.ExecutePreprocessor.on_cell_execute = announce
c.ExecutePreprocessor.on_cell_executed = fail_on_stderr
c.ExecutePreprocessor.on_cell_error = keep_what_was_executed
c.ExecutePreprocessor.coalesce_streams = True
