# Headless Chromium: opens the report as a reader would. Sourced by up.sh.

service_ready() { command -v chromium >/dev/null && timeout 60 chromium --headless --no-sandbox --version >/dev/null 2>&1; }
service_install() { apt_install chromium; }
service_start() { :; }
