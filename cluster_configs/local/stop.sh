#!/usr/bin/env bash
# Ends the nodes that head.sh and worker.sh have started on this machine, and no other Ray that runs here.
#
#   cluster_configs/local/stop.sh
#
# Costs when idle: nothing is left. A job that ran has lost nothing that it has written: it goes on from there when it
# runs again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

stop_node() {
    local file="$1" pid
    pid="$(< "$file")"
    if [[ "$(ps -o args= -p "$pid" 2> /dev/null)" == *"ray start"* ]]; then
        kill -TERM "$pid"
        for ((waited_s = 0; waited_s < 30; waited_s++)); do
            kill -0 "$pid" 2> /dev/null || break
            sleep 1
        done
        kill -KILL "$pid" 2> /dev/null || true
        echo "Ended: $(basename "$file" .pid)"
    fi
    rm -f "$file"
}

shopt -s nullglob
# The head last: a node that has lost its head takes longer to end.
for file in "$STATE"/worker-*.pid "$STATE"/head.pid; do
    if [[ -e "$file" ]]; then
        stop_node "$file"
    fi
done
