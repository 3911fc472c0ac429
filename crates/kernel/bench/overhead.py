"""What the cells of a notebook cost in this kernel and in plain evcxr_jupyter, by turns.

    cargo xtask setup
    cargo install evcxr_jupyter --version 0.22.0 --locked --root target/plain
    .venv/bin/python crates/kernel/bench/overhead.py --plain target/plain/bin/evcxr_jupyter

Each round starts both kernels anew, with the same compiled dependencies and the same environment, and sends all code cells of the
tutorial at once, as "Run All" does, with a short training. Cells that train or predict are left out of the sum; in their place, the
median of the other cells is counted for each.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

CLONE = Path(__file__).resolve().parents[3]
NOTEBOOK = CLONE / "notebooks/04_save_restore.ipynb"
# As when CI runs every cell twice.
SHORTER = ("10_000 - progress.total_iterations.min(10_000)", "200")
COMPUTING = ("optimize(", "predict", "print_test_accuracy(", "validation_accuracy(")
PATIENCE = 300


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]).replace(*SHORTER) for cell in cells if cell["cell_type"] == "code"]
    return [source for source in sources if source.strip()]


def computes(source):
    """Whether a cell trains or predicts, and does not only define what does."""
    return not source.lstrip().startswith(("fn ", "///", "//")) and any(word in source for word in COMPUTING)


class Specs(KernelSpecManager):
    """Finds one kernel, that of its name."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def get_kernel_spec(self, kernel_name):
        return self.spec


def plain_spec(ours, program, folder):
    """evcxr_jupyter, with the environment of our kernel and a copy of its compiled dependencies."""
    shutil.copytree(CLONE / ".kernel/build/warm", folder, symlinks=True)
    env = dict(ours.env, EVCXR_TMPDIR=f"{folder}/ctx", EVCXR_CONFIG_DIR=str(CLONE / ".kernel/config"))
    # As start-kernel sets them (crates/xtask/src/kernel.rs).
    env.update(CARGO_INCREMENTAL="1", GOMP_SPINCOUNT="1000")
    argv = [program, "--control_file", "{connection_file}"]
    return KernelSpec(argv=argv, display_name="evcxr", language="rust", env=env)


def run_all(spec, cells):
    """Seconds until the kernel answers, until `:dep` is done, until the first training line, and of each cell."""
    start = time.monotonic()
    manager = KernelManager(kernel_spec_manager=Specs(spec), kernel_name="measured")
    manager.start_kernel(cwd=str(NOTEBOOK.parent))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        ready = time.monotonic() - start
        numbers = {client.execute(cell): number for number, cell in enumerate(cells)}
        ends, first_line = [], None
        while len(ends) < len(cells):
            message = client.get_iopub_msg(timeout=PATIENCE)
            number, content = numbers.get(message["parent_header"].get("msg_id")), message["content"]
            if number is None:
                continue
            if message["msg_type"] == "error":
                raise SystemExit(f"cell {number + 1} failed:\n{cells[number]}\n{content['evalue']}")
            if message["msg_type"] == "stream" and "Iter:" in content["text"] and first_line is None:
                first_line = time.monotonic() - start
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                ends.append(time.monotonic() - start)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    seconds = [end - begin for begin, end in zip([ready] + ends, ends)]
    dep = next(number for number, cell in enumerate(cells) if ":dep" in cell)
    counted = [spent for number, spent in enumerate(seconds) if number > dep and not computes(cells[number])]
    sum_ = sum(counted) + statistics.median(counted) * (len(cells) - dep - 1 - len(counted))
    return {
        "a kernel answers": ready,
        "`:dep` is done": ends[dep],
        "the first training line": first_line,
        "all other cells together": sum_,
        "a cell": statistics.median(counted),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", required=True, help="the program evcxr_jupyter")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ours = KernelSpecManager().get_kernel_spec("rust")
    cells = code_cells()
    with tempfile.TemporaryDirectory() as folder:
        plain = plain_spec(ours, os.path.abspath(arguments.plain), f"{folder}/build")
        rounds = {"this kernel": [], "evcxr_jupyter": []}
        for number in range(arguments.rounds + 1):
            for name, spec in [("this kernel", ours), ("evcxr_jupyter", plain)]:
                found = run_all(spec, cells)
                print(f"{'warm-up' if number == 0 else f'round {number}'}, {name}:", found, flush=True)
                if number > 0:
                    rounds[name].append(found)
    print(f"\nSeconds of {len(cells)} cells, medians of {arguments.rounds} rounds, with the least and the most:\n")
    print(f"|  | {' | '.join(rounds)} |\n|---|--:|--:|")
    for what in rounds["this kernel"][0]:
        values = [[found[what] for found in of_kernel] for of_kernel in rounds.values()]
        texts = [f"{statistics.median(v):.2f} ({min(v):.2f}–{max(v):.2f})" for v in values]
        print(f"| {what} | {' | '.join(texts)} |")


if __name__ == "__main__":
    main()
