#!/usr/bin/env bash
# Holds a running `sluse` against its own OpenAPI document with schemathesis: whatever is sent, no answer is a 500, and what is
# answered has the documented content type and shape.
#
#   engine/tests/schemathesis.sh [path of the sluse binary]
#
# Needs Python 3 with venv; schemathesis itself is installed from PyPI into the target directory, once.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$here/target}"
sluse="${1:-$target/debug/sluse}"
version=4.32.5
venv="$target/schemathesis-$version"
if [ ! -x "$venv/bin/schemathesis" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet install "schemathesis==$version"
fi

work="$(mktemp -d)"
# PostgreSQL refuses root: as root its files belong to another user, who has to get through.
chmod o+x "$work"
port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
base="http://127.0.0.1:$port"
export SLUSE_ADMIN_EMAIL=schemathesis@example.org SLUSE_ADMIN_PASSWORD=schemathesis-42
# Nothing is asked of anybody outside.
export SLUSE_SIGFOX_API_URL=http://127.0.0.1:9
SLUSE_DATA_DIR="$work/data" SLUSE_HTTP_LISTEN="127.0.0.1:$port" "$sluse" serve >"$work/sluse.log" 2>&1 &
engine=$!
finish() {
    status=$?
    kill "$engine" 2>/dev/null && wait "$engine" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        grep -E 'ERROR|panicked' "$work/sluse.log" | tail -n 20 >&2 || true
    fi
    rm -rf "$work"
}
trap finish EXIT

for _ in $(seq 300); do
    if curl -fs "$base/readyz" >/dev/null 2>&1; then break; fi
    kill -0 "$engine" 2>/dev/null || { tail -n 20 "$work/sluse.log" >&2; exit 1; }
    sleep 0.2
done
token="$(curl -fsS "$base/api/v1/auth/login" -H 'content-type: application/json' \
    -d "{\"username\":\"$SLUSE_ADMIN_EMAIL\",\"password\":\"$SLUSE_ADMIN_PASSWORD\"}" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["accessToken"])')"

# Streams of events do not end; the health check says 500 on purpose when something is away; a user changed here could be ours; a Sigfox
# group that is not there is 200 without a body, as in the reference.
"$venv/bin/schemathesis" --no-color run "$base/api/v1/docs-json" --url "$base" \
    --header "Authorization: Bearer $token" \
    --checks not_a_server_error,content_type_conformance,response_schema_conformance \
    --phases examples,coverage,fuzzing --max-examples "${SCHEMATHESIS_EXAMPLES:-4}" --workers 2 --warnings off \
    --exclude-path-regex '/live$|/healthcheck$|/auth/|/user/\{id\}$|/receive-data$|/sigfox-group/\{id\}$' \
    --continue-on-failure --request-timeout 30 --suppress-health-check all
