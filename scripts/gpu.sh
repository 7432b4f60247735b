#!/usr/bin/env bash
# Everything that wants a GPU, in order of worth, in pieces of so many minutes on one card. Start it again until it ends
# with status 0; 75 says that work is left. All that is done lies in OUT: copy that to where the next piece runs.
#
#   AALP_DATA=data scripts/gpu.sh OUT [MINUTES]   AALP_DATA holds MNIST/, SVHN/ and cifar10-jpeg.tar.gz; 11 minutes
#   scripts/gpu.sh --try OUT [MINUTES]            the same on a CPU with the bundled digits: shows that it runs, no more
#
# PYTHON is the Python that has the library's dependencies (default: python3).
set -euo pipefail

device=cuda quick=() jobs=7 tier=full
if [ "${1:-}" = --try ]; then
    shift
    device=cpu quick=(--quick) jobs=2 tier=quick
fi
out=$(realpath -m "${1:?the folder for results}") minutes=${2:-11} status=0
cd "$(dirname "$0")/.."
chapters=(book/[0-9][0-9]-*.ipynb)
[ "$tier" = full ] || chapters=("${chapters[0]}")
export AALP_BOOK=1 AALP_TIER=$tier PYTHONPATH=$PWD
python=${PYTHON:-python3}
mkdir -p "$out/done" "$out/log" "$out/bench" "$out/chapters"

left() { echo $((minutes * 60 - SECONDS)); }

step() { # NAME COMMAND ...: do it once, as long as there is time; what failed is not tried again, or it would eat every piece
    local name=$1 code=0
    shift
    [ ! -e "$out/done/$name" ] || return 0
    [ "$(left)" -gt 20 ] || { status=75 && return 0; }
    echo "$name, $(left) s left"
    timeout --signal=INT --kill-after=20 "$(left)" "$@" >"$out/log/$name.txt" 2>&1 || code=$?
    case $code in
    0) touch "$out/done/$name" ;;
    75 | 124 | 137) status=75 ;; # out of time
    *) echo "failed with status $code; to try again, remove $out/done/$name" | tee "$out/done/$name" && tail -n 3 "$out/log/$name.txt" ;;
    esac
}

grid() { # NAME GRID OPTION ...: a part of `aalp reproduce` for which the minutes that are left are enough
    step "$1" "$python" -m aalp_lib reproduce "${@:2}" "${quick[@]}" --device "$device" --jobs "$jobs" \
        --out "$out/results" --minutes "$(($(left) - 15))/60"
}

if [ "$device" = cuda ] && command -v nvidia-cuda-mps-control >/dev/null; then # several runs share the card
    CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d) CUDA_MPS_LOG_DIRECTORY=$(mktemp -d)
    export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    nvidia-cuda-mps-control -d && trap 'echo quit | nvidia-cuda-mps-control' EXIT
fi

# (a) the card's rows of the bench, beside those of a CPU that are there; the chapters on the full data
[ -e "$out/bench/bench.json" ] || cp docs/bench/bench.json "$out/bench/"
step bench "$python" -m aalp_lib bench --device "$device" "${quick[@]}" --out "$out/bench"
for chapter in "${chapters[@]}"; do
    copy=$out/chapters/$(basename "$chapter")
    [ -e "$copy" ] || cp "$chapter" "$copy"
    step "$(basename "$copy" .ipynb)" "$python" -c 'import nbclient.cli as c; c.main()' --inplace "$copy"
done

if [ "$device" = cpu ]; then
    grid try mnist-sample --methods raw,adv
else
    # (b) CIFAR-10: seven rows at once, a hundred epochs against seven steps
    images=${TMPDIR:-/tmp}/cifar10-jpeg
    [ -d "$images/train" ] || { mkdir -p "$images" && tar -xzf "${AALP_DATA:?}/cifar10-jpeg.tar.gz" -C "$images"; }
    grid cifar10 cifar10 --folder "$images" --methods raw-long,adv-long,alp-long,trades-long,aalp_gd-long,aalp_sw-long,aalp-long
    # (c) SVHN, part
    grid svhn svhn-part --seeds 0,1,2
fi
echo "$([ $status = 0 ] && echo "nothing is left" || echo "something is left: start it again"); $out"
exit $status
