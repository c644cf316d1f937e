#!/bin/bash
# The study of h100.toml: rates and batches first, then the sweep by the rules they give, then the number of experts.
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#       --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \
#       --platform manylinux2014_x86_64 -r examples/scaling/corpus.txt -d wheels
#   python3 examples/sweep_corpus.py runs/h100/corpus.jsonl wheels/*      its sha256 is the last line of corpus.csv
#   bash examples/scaling/h100.sh runs/h100
#   bash examples/scaling/h100_law.sh runs/h100
#
# Stopped at any time, the same command goes on: what ended is not run again. ONLY=tune stops before the sweep. WORKERS cells of each lane share the GPUs.
set -u
cd "$(dirname "$0")/../.." || exit 1
dir=$(realpath "$1")
hunyuan=${HUNYUAN:-hunyuan} python=${PYTHON:-python3} workers=${WORKERS:-4}
export HUNYUAN_CACHE=${HUNYUAN_CACHE:-$dir/cache}
extra=(--device cuda)
# A rehearsal on a processor: TINY=1, minutes instead of hours.
small=1e14,3.16e14,1e15 larger=3.16e15 largest=1e16 low=1e14 high=1e15 middle=3.16e14
ends_low=ladder-80,ladder-160 middle_low=ladder-112 ends_high=ladder-128,ladder-320 middle_high=ladder-224
rungs=ladder-112,ladder-160,ladder-224 rates=[0.35,0.7,1.4,2.8]
if [ "${TINY:-}" ]; then
    extra=(
        --device cpu --set training.graph=auto --set model.vocab_size=300 --set training.sequence_length=64
        --set training.evaluation_tokens=2000 --set 'sweep.tokens_per_param=[1e-9,1e9]' --set sweep.batch_tokens.value=256
        --set sweep.batch_tokens.at_flops=1e9 --sizes ladder-24,ladder-32 --times 1e-5
    )
    small=1e14,3e14 larger=6e14 largest=1e15 middle=3e14 high=6e14
    ends_low=ladder-24,ladder-40 middle_low=ladder-32 ends_high=ladder-24,ladder-40 middle_high=ladder-32 rungs=ladder-32
fi

sweep() { # name, workers, options: one sweep, which is not begun again when it is whole
    local name=$1 places=$2
    shift 2
    [ -e "$dir/$name.done" ] && return 0
    echo "$(date +%T) $name begins"
    $hunyuan sweep examples/scaling/h100.toml --data "$dir/corpus.jsonl" --out "$dir/$name" --workers "$places" --threads 1 \
        --no-estimate --quiet "${extra[@]}" "$@" >> "$dir/$name.log" 2>&1
    local code=$?
    if [ $code = 3 ]; then # some failed: once more, as the fault may have been the machine's
        $hunyuan sweep --out "$dir/$name" --workers "$places" --threads 1 --no-estimate --quiet --retry-failed \
            >> "$dir/$name.log" 2>&1
        code=$?
    fi
    echo "$(date +%T) $name ends with status $code"
    [ $code = 0 ] || [ $code = 3 ] || return $code
    touch "$dir/$name.done"
}

whole() { # ends the script where one of the sweeps is not
    local name
    for name in "$@"; do
        [ -e "$dir/$name.done" ] || { echo "$name is not whole: see $dir/$name.log, then start again"; exit 1; }
    done
}

tune() {
    local rate=(--set "sweep.learning_rate.factors=$rates") batch=(--set 'sweep.batch_tokens.factors=[0.5,1,2]')
    sweep tune_low_ends "$((workers / 2))" --budgets $low --sizes $ends_low "${rate[@]}" &
    sweep tune_low "$((workers / 2))" --budgets $low --sizes $middle_low "${rate[@]}" "${batch[@]}" &
    sweep tune_high_ends "$((workers / 2))" --budgets $high --sizes $ends_high "${rate[@]}" &
    sweep tune_high "$((workers / 2))" --budgets $high --sizes $middle_high "${rate[@]}" "${batch[@]}" &
    wait
    whole tune_low_ends tune_low tune_high_ends tune_high
    $python examples/scaling_rates.py "$dir"/tune_*/runs.csv --set "$dir/rules.part" --plot "$dir/rates.png" > "$dir/rates.txt" 2>&1 \
        || { echo "the runs do not tell the rules, those of the plan hold:"; cat "$dir/rates.txt"; : > "$dir/rules.part"; }
    mv "$dir/rules.part" "$dir/rules.txt"
}

main() {
    [ -e "$dir/rules.txt" ] || { # the text is prepared once, before several sweeps ask for it
        echo "$(date +%T) the text is prepared"
        $hunyuan sweep examples/scaling/h100.toml --data "$dir/corpus.jsonl" --out "$dir/none" --budgets $low --dry-run \
            --no-estimate "${extra[@]}" > "$dir/prepare.log" 2>&1 || exit 1
        tune
    }
    [ "${ONLY:-}" = tune ] && exit # to look at rates.txt, and perhaps to change rules.txt, before the sweep
    mapfile -t rules < "$dir/rules.txt"
    extra+=("${rules[@]}")
    { # the larger budgets beside the smaller ones, so that the GPU is never short of work
        sweep larger "$workers" --budgets $larger
        sweep largest "$workers" --budgets $largest
    } &
    sweep small "$workers" --budgets $small
    sweep seeds "$workers" --budgets $low,$middle --seeds 1
    sweep more_seeds "$workers" --budgets $low --seeds 2
    for kind in dense 4 64; do
        if [ $kind = dense ]; then
            sweep experts_1 "$workers" --budgets $middle,$high --sizes "${rungs//,/-dense,}-dense"
        else
            sweep experts_$kind "$workers" --budgets $middle,$high --sizes $rungs --set model.num_experts=$kind
        fi
    done
    wait
    whole larger largest small seeds more_seeds experts_{1,4,64}
    touch "$dir/whole"
}

main; exit
