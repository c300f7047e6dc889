#!/usr/bin/env bash
# Trains within given minutes, all runs together, from packed pairs: car-mse, from it car-ssim and car; fast and
# best, wider than those that are shipped; of them, light and best-light, of 32 channels and taught by them;
# and, where DETECTOR names an ONNX file, detect. A part that fails does not stop the next.
#
#   tests/bench/train.sh PACKS OUT MINUTES [VALID]
#
# PACKS and VALID are folders of packs made by carfilter-degrade; this machine needs no PyAV for it.
# OUT collects weights, training states, logs and curves. Run it again to go on: finished parts end at
# once, and a run that was cut off resumes from its last checkpoint.
#
# PARTS limits what is trained; DEVICE=cpu rehearses it. Of the minutes, a twentieth is left for starting. What goes
# on from fast or best does so from those in OUT, else from the shipped ones.
DETECTOR=${DETECTOR:-}
PARTS=${PARTS:-car-mse car-ssim car fast best light best-light ${DETECTOR:+detect}}
FAST_CHANNELS=${FAST_CHANNELS:-64} BEST_CHANNELS=${BEST_CHANNELS:-64} LIGHT_CHANNELS=${LIGHT_CHANNELS:-32}
DEVICE=${DEVICE:-cuda} BATCH=${BATCH:-64} PYTHON=${PYTHON:-python}
EXTRA=${EXTRA:-} # further options for each carfilter-train

set -uo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
packs=$1 out=$2 minutes=$3 valid=${4:-}
mkdir -p "$out"
failed=0
declare -A shares=([car-mse]=32 [car-ssim]=8 [car]=8 [fast]=12 [best]=20 [light]=8 [best-light]=12 [detect]=12)
whole=0
for part in $PARTS; do whole=$((whole + ${shares[$part]:?no such part})); done

train() { # train NAME MODEL LEARNING_RATE OPTIONS...: keep what it says in OUT/NAME.log, carry on
    local name=$1 model=$2 rate=$3 began=$SECONDS
    shift 3
    [[ " $PARTS " == *" $name "* ]] || return 0
    local cards=1 start=() launcher=("$PYTHON")
    [ "$DEVICE" = cuda ] && cards=$($PYTHON -c 'import torch; print(max(1, torch.cuda.device_count()))')
    [ "$cards" -gt 1 ] && launcher+=(-m torch.distributed.run --standalone --nproc-per-node "$cards")
    [ -e "$out/$name.state.pt" ] && start=(--resume)
    [ -n "$valid" ] && start+=(--valid "$valid" --score-minutes 4)
    local share
    share=$(awk "BEGIN { print 0.95 * $minutes * ${shares[$name]} / $whole }")
    echo "== $name: $share minutes"
    # shellcheck disable=SC2086
    "${launcher[@]}" -m carfilter.commands.train "$packs" "$out/$name.pt" --model "$model" \
        --minutes "$share" --lr "$rate" --batch "$BATCH" --device "$DEVICE" --save-minutes 1 \
        "$@" "${start[@]}" $EXTRA 2>&1 | tee -a "$out/$name.log"
    local code=${PIPESTATUS[0]}
    echo "== $name: exit code $code after $((SECONDS - began)) s"
    [ "$code" -eq 0 ] || failed=1
}

made() { # made NAME: the weights of that name in OUT, else the shipped ones
    if [ -e "$out/$1.pt" ]; then echo "$out/$1.pt"; else echo "$1"; fi
}

train car-mse car 4e-4 --loss mse
if [ -e "$out/car-mse.pt" ]; then
    train car-ssim car 1e-4 --loss ssim --init "$out/car-mse.pt"
    train car car 1e-4 --loss both --init "$out/car-mse.pt"
fi
train fast fast 5e-4 --channels "$FAST_CHANNELS" --balance 1
train best best 5e-4 --channels "$BEST_CHANNELS" --balance 1
train light fast 7e-4 --balance 1 --channels "$LIGHT_CHANNELS" --layers 7 --init "$(made fast)" --teacher "$(made fast)"
train best-light best 7e-4 --balance 1 --channels "$LIGHT_CHANNELS" --layers 7 --init "$(made best)" --teacher "$(made best)"
# 224x224 crops have twelve times the pixels.
train detect best 2e-4 --balance 1 --batch $((BATCH / 8 + 1)) --init "$(made best)" \
    --feature-loss "$DETECTOR"
(cd "$out" && sha256sum ./*.pt >SHA256SUMS) || failed=1
exit "$failed"
