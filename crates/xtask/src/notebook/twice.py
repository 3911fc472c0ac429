

# Follows execute.py. Executes every cell twice in a row, as people do who try things out. The environment variable SHORTER
# is a list of replacements in the cells, as JSON, by which trainings are short.
import json  # noqa: E402


class Twice(Announcing):
    def preprocess(self, nb, resources=None, km=None):
        for old, new in json.loads(os.environ["SHORTER"]):
            for cell in nb.cells:
                cell.source = cell.source.replace(old, new)
        return super().preprocess(nb, resources, km)

    def preprocess_cell(self, cell, resources, index):
        cell, resources = super().preprocess_cell(cell, resources, index)
        return super().preprocess_cell(cell, resources, index)


c.Exporter.default_preprocessors = [Twice if name is Announcing else name for name in c.Exporter.default_preprocessors]
