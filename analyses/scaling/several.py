"""Several tables of runs fitted by the same options, their laws side by side in one document."""

from collections.abc import Mapping
from typing import Any


def side_by_side(documents: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The documents of scale-fit by the name of their table: all of each, and their laws and predictions together."""
    laws = [
        {"table": name, "of": of}
        | {key: document[of].get(key) for key in ("coefficient", "exponent", "exponent_interval")}
        for of in ("n_opt", "d_opt")
        for name, document in documents.items()
        if document[of] is not None
    ]
    predictions = [{"table": name} | row for name, document in documents.items() for row in document["predictions"]]
    tables = [{"table": name} | document for name, document in documents.items()]
    return {"tables": tables, "laws": laws, "predictions": predictions}
