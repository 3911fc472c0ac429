"""Executes every cell twice in a row, as people do who try things out. A configuration of nbconvert.

The environment variable STOP_ON_FAILURE names `notebooks/stop_on_failure.py`, which this adds to. SHORTER is a list of
replacements in the cells, as JSON, by which trainings are short.
"""

import json
import os

with open(os.environ["STOP_ON_FAILURE"], encoding="utf-8") as file:
    exec(compile(file.read(), file.name, "exec"))


class Twice(StopOnFailure):  # noqa: F821
    def preprocess(self, nb, resources=None, km=None):
        for old, new in json.loads(os.environ["SHORTER"]):
            for cell in nb.cells:
                cell.source = cell.source.replace(old, new)
        return super().preprocess(nb, resources, km)

    def preprocess_cell(self, cell, resources, index):
        cell, resources = super().preprocess_cell(cell, resources, index)
        return super().preprocess_cell(cell, resources, index)


c.Exporter.default_preprocessors = [  # noqa: F821
    Twice if name is StopOnFailure else name  # noqa: F821
    for name in c.Exporter.default_preprocessors  # noqa: F821
]
