"""The process of one cell of a sweep: python -m hunyuan_cli.sweep_cell FOLDER, started by model/sweep/engines.py."""

import sys

from model.sweep.cell import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
