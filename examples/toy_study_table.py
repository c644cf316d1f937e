"""The table and the figures of the README's toy study, from the data that examples/toy_study.py left.

python examples/toy_study_table.py examples/toy_study --baseline mixture
"""

import argparse
from pathlib import Path

import pandas as pd

from analyses.training.seeds import plot_curves, variants_table
from hunyuan_cli.files import save_figure
from hunyuan_cli.results import emit

FIGURES = {
    "dense.png": ["mixture", "dense"],
    "routing.png": ["mixture", "drop 1.0", "drop 1.25", "recycle 1.0", "recycle 1.25"],
    "expert_rate.png": ["mixture", "expert scale 0.1", "expert scale 0.56", "expert scale 1.0"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--baseline", default="mixture")
    parser.add_argument("--figures", type=Path, help="draw the figures into this folder")
    options = parser.parse_args()
    emit(variants_table(pd.read_csv(options.folder / "cells.csv"), options.baseline))
    if options.figures is not None:
        curves = pd.read_csv(options.folder / "curves.csv")
        for name, variants in FIGURES.items():
            save_figure(plot_curves(curves, variants), options.figures / name)


if __name__ == "__main__":
    main()
