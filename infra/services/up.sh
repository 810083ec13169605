#!/usr/bin/env bash
# Install and start the services that tests marked `service` need. Safe to run again at any time.
# Usage: up.sh [SERVICE ...]; without names, every service. One script per service in this folder; each defines
#   service_ready   true when the service can be used now
#   service_install put its packages on the machine
#   service_start   start it (nothing to do for programs)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=packages.sh
source "$here/packages.sh"

if [ $# -gt 0 ]; then services=("$@"); else services=(chromium mrtrix); fi
for service in "${services[@]}"; do
    script="$here/$service.sh"
    [ -f "$script" ] || { echo "No service '$service'; there is no $script" >&2; exit 2; }
    (
        # shellcheck source=/dev/null
        source "$script"
        if service_ready; then echo "$service: ready"; exit 0; fi
        service_install
        service_start
        service_ready || { echo "$service: installed and started, but does not answer" >&2; exit 1; }
        echo "$service: ready"
    )
done
