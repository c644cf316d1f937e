#!/bin/sh
# Two GPUs of one machine against one, and a model that does not fit one of them: examples/gpu/two_gpus.sh [FOLDER]
# Writes FOLDER/two_gpus.json and FOLDER/beyond_one.json, and their logs. What is first is what matters most.
set -u
out=${1:-examples/gpu}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
status=0
timeout -s INT -k 15 230 "$python" -m hunyuan_cli bench train --device cuda --processes 2 --rounds 3 --steps 5 \
    --format json --output "$out/two_gpus.json" 2>"$out/two_gpus.log" || status=$?
timeout -s INT -k 15 95 "$python" examples/gpu/beyond_one.py --output "$out/beyond_one.json" 2>"$out/beyond_one.log" || status=$?
exit $status
