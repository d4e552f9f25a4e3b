#!/usr/bin/env bash
# Trains one network on several cards, one process each: NPROC=8 bash scripts/train_distributed.sh --recipe NAME_OR_FILE ...
# Everything goes on to `ms-vit train`; the same command again goes on with the run. --dry-run alone prints what would run.
#   NPROC        processes of this machine (default: its cards, else 1)
#   NNODES       machines (default 1), each with as many processes; all of them see the run folder and the data
#   NODE_RANK    which of these this is, from 0 (default: Slurm's, else 0)
#   MASTER_ADDR  the address of number 0 (default 127.0.0.1), MASTER_PORT a free port there (default 8118)
#   DEVICE       Ascend, GPU or CPU (default: what MindSpore finds)
#   LOGS         folder for what each process says (default: logs-RANK_OF_NODE-TIME)
# Ctrl-C and SIGTERM stop all processes once their step is done and saved; a process that fails ends all, and is shown.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

count_cards() {
    local cards=0 card
    for card in /dev/davinci[0-9]* /dev/nvidia[0-9]*; do
        if [ -e "$card" ]; then cards=$((cards + 1)); fi
    done
    echo "$((cards > 0 ? cards : 1))"
}

NPROC="${NPROC:-$(count_cards)}"
NNODES="${NNODES:-1}"
NODE_RANK="${NODE_RANK:-${SLURM_NODEID:-0}}"
LOGS="${LOGS:-logs-$NODE_RANK-$(date +%Y%m%d-%H%M%S)}"
for name in NPROC NNODES NODE_RANK; do
    case "${!name}" in
        "" | *[!0-9]*) echo "ms-vit: $name is a number, not \"${!name}\"" >&2; exit 2 ;;
    esac
done
if [ "$NNODES" -gt 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
    echo "ms-vit: $NNODES machines need MASTER_ADDR, the address of the one whose NODE_RANK is 0" >&2
    exit 2
fi

arguments=() dry=
for argument in "$@"; do
    if [ "$argument" = --dry-run ]; then dry=yes; else arguments+=("$argument"); fi
done
if [ -n "${DEVICE:-}" ]; then arguments+=(--device "$DEVICE"); fi
command=(msrun "--worker_num=$((NPROC * NNODES))" "--local_worker_num=$NPROC" "--node_rank=$NODE_RANK"
    "--master_addr=${MASTER_ADDR:-127.0.0.1}" "--master_port=${MASTER_PORT:-8118}" "--log_dir=$LOGS" --join=True
    --tail_worker_log="$((NODE_RANK * NPROC))" python -m ms_vit.train "${arguments[@]}")
if [ -n "$dry" ]; then
    printf '%q ' env "PATH=$VENV/bin:$PATH" "${command[@]}"
    echo
    exit
fi

install ""
export PATH="$VENV/bin:$PATH"       # msrun starts "python"
export HCCL_CONNECT_TIMEOUT="${HCCL_CONNECT_TIMEOUT:-1800}"     # seconds: the others wait while one compiles
export MS_NODE_TIMEOUT="${MS_NODE_TIMEOUT:-20}"                 # seconds until a machine that is gone is missed
mkdir -p "$LOGS"

# The processes lead sessions of their own; the launcher's scheduler doesn't.
workers() { ps -o pid=,sid=,stat= --ppid "$launcher" | awk '$1 == $2 && $3 !~ /Z/ {print $1}'; }

stopped=0
# shellcheck disable=SC2329
stop() {
    stopped="$1"
    # shellcheck disable=SC2046
    kill -TERM $(workers) 2>/dev/null || true
}
set -m      # else a Ctrl-C would reach the launcher, which kills the processes at once
"${command[@]}" > "$LOGS/launcher.log" 2>&1 < /dev/null &
launcher=$!
set +m
trap 'stop 143' TERM
trap 'stop 130' INT
tail --pid="$launcher" -n +1 -F "$LOGS/worker_$((NODE_RANK * NPROC)).log" >&2 2>/dev/null &
code=0 begun=0 gone=0
while kill -0 "$launcher" 2>/dev/null; do
    if [ -n "$(workers)" ]; then begun=1 gone=0; else gone=$((gone + 1)); fi
    # All well, the scheduler follows them in some seconds; where one failed, it would miss it for long.
    patience=30
    if [ "$stopped" -ne 0 ] || grep -q "exit with exception" "$LOGS/launcher.log"; then patience=2; fi
    if [ "$begun" -eq 1 ] && [ "$gone" -gt "$patience" ]; then pkill -KILL -P "$launcher" || true; fi
    sleep 0.5 &
    wait $! || true
done
wait "$launcher" || code=$?
wait || true
if [ "$stopped" -ne 0 ]; then exit "$stopped"; fi
for argument in "${arguments[@]}"; do
    if [ "$argument" = --json ] && [ "$code" -eq 0 ]; then
        grep -a '^{' "$LOGS/worker_$((NODE_RANK * NPROC)).log" | tail -n 1
    fi
done
# The launcher may end a process whose run is saved before that has told of its own end.
if [ "$code" -ne 0 ] && grep -qaE '^(stopped after step|ms-vit: interrupted)' "$LOGS"/worker_*.log; then
    echo "ms-vit: stopped on another machine; the same command on all of them goes on" >&2
    exit 143
fi
if [ "$code" -ne 0 ]; then
    grep -ahE '^ms-vit: ' "$LOGS"/worker_*.log | sort -u >&2 || {
        for log in "$LOGS"/worker_*.log; do
            echo "== the end of $log" >&2
            grep -avE '^\[(WARNING|INFO)\]' "$log" | tail -n 12 >&2
        done
    }
    echo "ms-vit: a process failed, which ended all; what each said is in $LOGS" >&2
fi
exit "$code"
