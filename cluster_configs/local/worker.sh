#!/usr/bin/env bash
# Adds this machine to the cluster of head.sh, with its CPUs and GPUs.
#
#   cluster_configs/local/worker.sh HEAD:6379 [options of `ray start`, such as --num-gpus=1 --labels=pool=gpu]
#
# Costs when idle: nothing but this machine, of which Ray's processes take about 0.5 GB of memory.
# To end it: cluster_configs/local/stop.sh here.
#
# For a second node on one machine: --temp-dir=… and RAY_METRICS_PORT=… of its own, --dashboard-agent-listen-port=….
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ "${1:-}" =~ ^[^-].*:[0-9]+$ ]] || fail "expected the address of the head, such as 10.0.0.1:6379; got '${1:-}'."
address="$1"
shift
find_ray
demand_token
start_node "worker-$$" --address="$address" --metrics-export-port="${RAY_METRICS_PORT:-8080}" "$@"
echo "This machine is a node of the cluster of $address. To leave: cluster_configs/local/stop.sh"
