#!/usr/bin/env bash
# Install Debian packages if this user may (root, or sudo without a prompt):  .ci/system-packages.sh "WHAT FOR" PACKAGE…
# Exit 1, naming the packages, where it may not.
set -euo pipefail
purpose=$1
shift

if [ "$(id -u)" = 0 ]; then as_root=()
elif sudo -n true 2>/dev/null; then as_root=(sudo -n)
else as_root=(false)
fi
if command -v apt-get >/dev/null && [ "${as_root[*]}" != false ]; then
    echo "Installing system packages for $purpose: $*"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if "${as_root[@]}" apt-get update -qq >"$log" 2>&1 &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >>"$log" 2>&1; then
        exit 0
    fi
    cat "$log" >&2
fi
echo "error: $purpose is missing and could not be installed here; install the packages (Debian's names): $*" >&2
exit 1
