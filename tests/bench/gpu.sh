#!/usr/bin/env bash
# Everything worth doing in one loan of a CUDA machine: the CUDA tests, the speed benchmarks, and the
# training of car-mse, car-ssim, car and a wider best from packed pairs. A part that fails does not stop the next.
#
#   tests/bench/gpu.sh PACKS OUT [VALID]
#
# PACKS and VALID are folders of packs made by carfilter-degrade; this machine needs no PyAV for the
# training. OUT collects weights, training states, logs and curves. Run it again to go on: finished
# parts end at once, and a run that was cut off resumes from its last checkpoint.
#
# Minutes of each part, all runs together:
MSE_MINUTES=${MSE_MINUTES:-18} SSIM_MINUTES=${SSIM_MINUTES:-5} BOTH_MINUTES=${BOTH_MINUTES:-5}
BEST_MINUTES=${BEST_MINUTES:-18} BEST_CHANNELS=${BEST_CHANNELS:-64}
# PARTS limits what is done: any of tests speed idle car-mse car-ssim car best. DEVICE=cpu rehearses it.
PARTS=${PARTS:-tests speed idle car-mse car-ssim car best}
DEVICE=${DEVICE:-cuda} BATCH=${BATCH:-64} PYTHON=${PYTHON:-python}
EXTRA=${EXTRA:-} # further options for each carfilter-train

set -uo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
packs=$1 out=$2 valid=${3:-}
mkdir -p "$out"
failed=0

wanted() { [[ " $PARTS " == *" $1 "* ]]; }

part() { # part NAME COMMAND...: run it, keep what it says in OUT/NAME.log, carry on
    local name=$1
    shift
    echo "== $name: $*"
    local began=$SECONDS
    "$@" 2>&1 | tee -a "$out/$name.log"
    local code=${PIPESTATUS[0]}
    echo "== $name: exit code $code after $((SECONDS - began)) s"
    [ "$code" -eq 0 ] || failed=1
}

train() { # train NAME MODEL MINUTES LEARNING_RATE OPTIONS...
    local name=$1 model=$2 minutes=$3 rate=$4
    shift 4
    local cards=1 start=()
    [ "$DEVICE" = cuda ] && cards=$($PYTHON -c 'import torch; print(max(1, torch.cuda.device_count()))')
    local launcher=("$PYTHON")
    [ "$cards" -gt 1 ] && launcher=("$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$cards")
    [ -e "$out/$name.state.pt" ] && start=(--resume)
    [ -n "$valid" ] && start+=(--valid "$valid" --score-minutes 4)
    # shellcheck disable=SC2086
    part "$name" "${launcher[@]}" -m carfilter.commands.train "$packs" "$out/$name.pt" --model "$model" \
        --minutes "$minutes" --lr "$rate" --batch "$BATCH" --device "$DEVICE" --save-minutes 1 \
        "$@" "${start[@]}" $EXTRA
    [ -n "$valid" ] && [ -e "$out/$name.pt" ] &&
        part "$name.score" "$PYTHON" -m carfilter.commands.train "$valid" "$out/$name.pt" --score-only \
            --every 4 --device "$DEVICE"
}

# Only the files that need no PyAV; the others would fail to be collected without it.
wanted tests && CARFILTER_REQUIRE_CUDA=1 part tests "$PYTHON" -m pytest -m cuda -q tests/test_*cuda.py
wanted speed && part speed "$PYTHON" -m tests.bench network scaling --device "$DEVICE" --json "$out/speed.json"
# Twice: the second time, compiled code comes from the cache. Nothing of it can be rehearsed without a card.
for turn in 1 2; do
    wanted idle && [ "$DEVICE" = cuda ] && part "idle$turn" "$PYTHON" -m tests.bench idle --device cuda \
        --weights car --weights fast --size 1080 --frames 300 --json "$out/idle$turn.json"
done
wanted car-mse && train car-mse car "$MSE_MINUTES" 4e-4 --loss mse
if [ -e "$out/car-mse.pt" ]; then
    wanted car-ssim && train car-ssim car "$SSIM_MINUTES" 1e-4 --loss ssim --init "$out/car-mse.pt"
    wanted car && train car car "$BOTH_MINUTES" 1e-4 --loss both --init "$out/car-mse.pt"
fi
wanted best && train best best "$BEST_MINUTES" 5e-4 --channels "$BEST_CHANNELS" --balance 1 --flicker 1.5
(cd "$out" && sha256sum ./*.pt >SHA256SUMS) || failed=1
exit "$failed"
