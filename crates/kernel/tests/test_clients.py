"""Programs that people use: nbconvert without any configuration, and Jupyter's console."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

from session import KERNEL, Session, processes


def notebook(*cells):
    def cell(number, cell):
        source, tags = cell if isinstance(cell, tuple) else (cell, [])
        return {
            "cell_type": "code", "id": str(number), "metadata": {"tags": tags}, "source": source,
            "outputs": [], "execution_count": None,
        }

    spec = {"name": KERNEL, "display_name": KERNEL, "language": "rust"}
    cells = [cell(number, source) for number, source in enumerate(cells)]
    return {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}


class Nbconvert(unittest.TestCase):
    def convert(self, *cells):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "a.ipynb")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(notebook(*cells), file)
            command = [sys.executable, "-m", "nbconvert", "--execute", "--to=notebook", "--output=b.ipynb", path]
            ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
            try:
                with open(os.path.join(folder, "b.ipynb"), encoding="utf-8") as file:
                    return ended, json.load(file)
            except FileNotFoundError:
                return ended, None

    def test_a_notebook_with_an_error_fails(self):
        for code, message in [('panic!("p")', "panic: p"), ('Err::<(), _>("e")?;', "Error: e"), ("let x: i32 = 0.5;", "mismatched")]:
            ended, written = self.convert('println!("1");', code, 'println!("2");')
            self.assertEqual(ended.returncode, 1, ended.stderr)
            self.assertIn(message, re.sub("\x1b\\[[0-9;]*m", "", ended.stderr))
            self.assertIsNone(written)

    def test_a_cell_that_may_raise_an_error_does_not_fail(self):
        ended, written = self.convert(('panic!("p")', ["raises-exception"]), "1 + 1")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        panic, value = [cell["outputs"] for cell in written["cells"]]
        self.assertEqual((panic[0]["output_type"], panic[0]["evalue"]), ("error", "p"))
        self.assertEqual(value[0]["data"]["text/plain"], ["2"])
        self.assertEqual([cell["execution_count"] for cell in written["cells"]], [1, 2])


class Console(unittest.TestCase):
    def test_the_console_shows_values_and_errors_and_quits(self):
        session = Session()
        try:
            file = session.manager.connection_file
            command = [sys.executable, "-m", "jupyter_console", "--existing", file, "--simple-prompt"]
            lines = 'let a = 20;\na + 1\npanic!("in the console")\nprintln!("{}", a * 2)\n'
            ended = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60)
            for expected in ("21", "in the console", "40"):
                self.assertIn(expected, ended.stdout + ended.stderr)
        finally:
            session.end()


class Restarts(unittest.TestCase):
    def test_restarts_leave_nothing_behind(self):
        folder = tempfile.gettempdir()

        def left():
            return [name for name in os.listdir(folder) if name.startswith("earlystop-kernel-")]

        before = left()
        session = Session()
        try:
            for _ in range(int(os.environ.get("EARLYSTOP_RESTARTS", "5"))):
                group = session.manager.provisioner.pid
                session.manager.restart_kernel(now=False)
                self.assertEqual(processes(group), {})
                session.client.wait_for_ready(timeout=60)
            self.assertEqual(session.run("1").reply["execution_count"], 1)
        finally:
            session.end()
        self.assertEqual(left(), before)
