#!/bin/bash
# The law and figures of what h100.sh left in a folder, beside h100.toml: bash examples/scaling/h100_law.sh runs/h100
set -eu
cd "$(dirname "$0")/../.."
dir=$1 out=${2:-examples/scaling} hunyuan=${HUNYUAN:-hunyuan} python=${PYTHON:-python3}

join() { # tables with one header; those that are not there yet are left out
    local first=1 table
    for table in "$@"; do
        [ -e "$table" ] || continue
        if [ $first ]; then cat "$table"; else tail -n +2 "$table"; fi
        first=
    done
}

join "$dir"/tune_*/runs.csv > "$out/h100_tune.csv"
join "$dir"/{small,larger,largest,seeds,more_seeds}/runs.csv > "$out/h100_runs.csv"
join "$dir"/experts_*/runs.csv > "$out/h100_experts.csv"
$python examples/scaling_rates.py "$out/h100_tune.csv" --plot "$out/h100_rates.png"
for shape in shared parabola; do
    $hunyuan scale-fit "$out/h100_runs.csv" --shape $shape --law paper --format json --output "$out/h100_$shape.json"
done
$hunyuan scale-fit "$out/h100_runs.csv" --method both --law paper --plot "$out/h100.png" --format json --output "$out/h100_law.json"
$hunyuan scale-fit "$out/h100_runs.csv" --method both --law paper
