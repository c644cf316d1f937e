#!/bin/bash
# The law and figures of what h100.sh left in a folder, beside h100.toml: bash examples/scaling/h100_law.sh runs/h100
set -u
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
fit() { # name, table, options: the law as JSON
    $hunyuan scale-fit "$2" --law paper "${@:3}" --format json --output "$out/h100_$1.json" || echo "not every law of $1 holds: its warnings say why"
}
fit parabola "$out/h100_runs.csv" --shape parabola
fit law "$out/h100_runs.csv" --shape shared --method both --plot "$out/h100.png"
fit without_embedding "$out/h100_runs.csv" --shape shared --method both --params-column activated_params_without_embedding
$hunyuan scale-fit "$out/h100_runs.csv" --law paper --shape shared --method both

# What more experts buy: those of the main sweep, at the budgets and sizes of the others, and the others.
join "$dir"/{small,larger,largest,seeds,more_seeds}/runs.csv "$dir"/experts_*/runs.csv > "$dir/mixtures.csv"
$hunyuan scale-fit "$dir/mixtures.csv" --method sparsity --format json --output "$out/h100_sparsity.json"
$hunyuan scale-fit "$dir/mixtures.csv" --method sparsity
