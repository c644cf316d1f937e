"""The document of `hunyuan paper`."""

from typing import Any

from analyses.paper import architecture, routing, scaling_laws, scores, training
from analyses.paper.differences import differences


def paper_report() -> dict[str, Any]:
    """rows: each number beside ours; differences: report, release and ours; routing, ruler: what needs a table."""
    parts = (architecture, scaling_laws, training, routing, scores)
    return {
        "rows": [row.document() for part in parts for row in part.rows()],
        "differences": differences(),
        "routing": routing.dropped_shares(),
        "ruler": scores.ruler_readings(),
    }
