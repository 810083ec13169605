# Headless Chromium: opens the report as a reader would. Sourced by up.sh.

service_ready() {
    local profile
    command -v chromium >/dev/null || return 1
    profile=$(mktemp -d)
    timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run \
        --user-data-dir="$profile" --dump-dom 'data:text/html,<p>rendered</p>' 2>/dev/null | grep -q '<p>rendered</p>'
    local code=$?
    rm -rf "$profile"
    return "$code"
}
service_install() { apt_install chromium; }
service_start() { :; }
