# What the scripts of this folder share; read by them, not run.
# shellcheck shell=bash

START_S=120
STATE="${RAY_PIPELINES_NODES:-$HOME/.ray/nodes}"

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

find_ray() {
    local root
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
    if [[ -x "$root/.venv/bin/ray" ]]; then
        PATH="$root/.venv/bin:$PATH"
    fi
    command -v ray > /dev/null || fail "there is no ray here. Install this package first: make install"
}

# Left unset, RAY_AUTH_MODE means one thing to `ray start` and another to `ray job submit`.
demand_token() {
    export RAY_AUTH_MODE=token
    if [[ -n "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" || -s "$HOME/.ray/auth_token" ]]; then
        return
    fi
    [[ "${1:-}" == --generate ]] || fail "there is no token here. Copy ~/.ray/auth_token of the head to this machine."
    # Ray leaves the file readable for everybody.
    (umask 077 && ray get-auth-token --generate > /dev/null)
}

# A node in the background: its process in $STATE/NAME.pid, what it says in $STATE/NAME.log.
start_node() {
    local name="$1" pid
    shift
    mkdir -p "$STATE"
    setsid nohup ray start --disable-usage-stats --block "$@" < /dev/null > "$STATE/$name.log" 2>&1 &
    pid=$!
    echo "$pid" > "$STATE/$name.pid"
    for ((waited_s = 0; waited_s < START_S; waited_s++)); do
        if grep -q "Ray runtime started" "$STATE/$name.log"; then
            return
        fi
        if ! kill -0 "$pid" 2> /dev/null; then
            rm -f "$STATE/$name.pid"
            tail -n 20 "$STATE/$name.log" >&2
            fail "the node has not started; the reason is above and in $STATE/$name.log."
        fi
        sleep 1
    done
    fail "the node has not started within $START_S s; see $STATE/$name.log."
}
