# MRtrix3: diffusion kernels are compared with it in tests and benchmarks; nothing that ships uses it. Sourced by up.sh.

service_ready() { command -v dwidenoise >/dev/null && dwidenoise -version >/dev/null 2>&1; }
service_install() { apt_install mrtrix3; }
service_start() { :; }
