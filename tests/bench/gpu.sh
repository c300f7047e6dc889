#!/usr/bin/env bash
# Everything worth knowing of a CUDA machine, in under 14 minutes, into one folder of results: the tests
# that need a card, the network's speed (eager and compiled, beside other runtimes; by batch), the whole
# tool, how idle the card is, and car's convolution alone. A part that fails or takes too long does not
# stop the next. Not the training: that is train.sh beside this.
#
#   tests/bench/gpu.sh OUT
#
# PARTS limits what is done. DEVICE=cpu SIZE=toy rehearses it.
PARTS=${PARTS:-tests network convolution tool idle batch}
DEVICE=${DEVICE:-cuda} SIZE=${SIZE:-both} RUNS=${RUNS:-5} PYTHON=${PYTHON:-python}
MODELS=${MODELS:-fast best car}

set -uo pipefail
if [ $# -ne 1 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
out=$1
mkdir -p "$out"
failed=0 weights=()
for model in $MODELS; do weights+=(--weights "$model"); done

part() { # part NAME SECONDS COMMAND...: run it for so long at most, keep what it says in OUT/NAME.log
    local name=$1 seconds=$2 began=$SECONDS
    shift 2
    [[ " $PARTS " == *" ${name%%-*} "* ]] || return 0
    echo "== $name: $*"
    timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log"
    local code=${PIPESTATUS[0]}
    echo "== $name: exit code $code after $((SECONDS - began)) s" | tee -a "$out/summary.txt"
    [ "$code" -eq 0 ] || failed=1
}
bench() { # bench NAME SECONDS PART OPTIONS...
    local name=$1 seconds=$2
    shift 2
    part "$name" "$seconds" "$PYTHON" -m tests.bench "$@" --device "$DEVICE" --runs "$RUNS" \
        --json "$out/$name.json"
}

nvidia-smi >"$out/card.txt" 2>&1 # nothing of it where there is none
CARFILTER_REQUIRE_CUDA=1 part tests 150 "$PYTHON" -m pytest -q -m cuda tests
bench network 210 network --size "$SIZE" "${weights[@]}"
bench convolution 60 convolution --size "$SIZE"
bench tool 150 tool --size "$SIZE" "${weights[@]}"
# Nothing of it can be rehearsed without a card.
[ "$DEVICE" = cpu ] || bench idle 120 idle --size 1080 --frames 200 "${weights[@]}"
bench batch 120 scaling --size "$SIZE" --weights car
exit "$failed"
