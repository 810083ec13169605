# Debian packages for the service scripts; sourced by up.sh.

apt_install() {
    local run=()
    if ! command -v apt-get >/dev/null; then
        echo "Services are installed from Debian packages and apt-get is not here. Install by hand: $*" >&2
        return 1
    fi
    if [ "$(id -u)" != 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            echo "Installing needs root. Run as root: apt-get install $*" >&2
            return 1
        fi
        run=(sudo -n)
    fi
    "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
