#!/usr/bin/env bash
# Starts the head node of a cluster of your own machines; worker.sh adds the others.
#
#   cluster_configs/local/head.sh [options of `ray start`, such as --num-cpus=2]
#
# Costs when idle: nothing but this machine, of which Ray's processes take about 1 GB of memory and a few % of a core.
# To end it: cluster_configs/local/stop.sh on each machine.
#
# RAY_PORT (6379) and RAY_DASHBOARD_PORT (8265) are the ports to open to the other machines and to those who submit jobs.
# RAY_DASHBOARD_HOST (127.0.0.1) says who may reach the dashboard. The cluster demands a token, which the first start
# makes in ~/.ray/auth_token. What travels between the nodes is not encrypted: use a private network.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

find_ray
demand_token --generate
port="${RAY_PORT:-6379}"
dashboard_port="${RAY_DASHBOARD_PORT:-8265}"
start_node head \
    --head \
    --port="$port" \
    --include-dashboard=true \
    --dashboard-host="${RAY_DASHBOARD_HOST:-127.0.0.1}" \
    --dashboard-port="$dashboard_port" \
    --metrics-export-port="${RAY_METRICS_PORT:-8080}" \
    "$@"
address="$(hostname -I 2> /dev/null | cut -d' ' -f1)"
cat << END
The head runs. Copy its ~/.ray/auth_token to the other machines, and there
    cluster_configs/local/worker.sh ${address:-127.0.0.1}:$port
From here
    ray-pipelines submit job.yaml --address http://127.0.0.1:$dashboard_port
END
