"""The process that measures the speed of a sweep's sizes: python -m hunyuan_cli.sweep_measure JOB.json OUT.json

It gives its memory back when it ends. model/sweep/estimate.py writes the job and reads the speeds.
"""

import sys
from pathlib import Path

from model.sweep.estimate import measure_job

if __name__ == "__main__":
    measure_job(Path(sys.argv[1]), Path(sys.argv[2]))
