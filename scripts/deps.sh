#!/usr/bin/env bash
# Installs what building and testing keyringd needs and this system lacks.
#
#   scripts/deps.sh            everything
#   scripts/deps.sh demo       what the demonstration needs: all but the window
#   scripts/deps.sh build      only what a build needs
#
# On Debian and Ubuntu it installs packages, with sudo where it is not root. It
# prints and does nothing where nothing is missing. On other systems it names
# the packages and leaves the rest to you. Beside packages, "everything" has the
# Go modules of tools/clients, whose own tests are run, and nothing else.
set -euo pipefail

# Debian and Ubuntu package names.
build=(ca-certificates git make gcc libc6-dev)
window=(pkg-config libgl1-mesa-dev xorg-dev libxkbcommon-dev libwayland-dev) # keyring-ui is built with these
demo=(
	procps socat
	openssl openssh-client openssh-server
	swtpm swtpm-tools tpm2-tools tpm2-openssl
	dbus-daemon libsecret-tools
)
tests=(
	python3-paramiko python3-asyncssh
	strace gdb gnupg binutils
	pinentry-curses pinentry-tty pinentry-gtk2 pinentry-qt
	dbus-daemon dbus-bin systemd libglib2.0-bin
	opensc p11-kit p11-kit-modules gnutls-bin libengine-pkcs11-openssl libnss3-tools
	xvfb xdotool openbox wmctrl x11-xkb-utils libgl1-mesa-dri
	softhsm2 libtpm2-pkcs11-1 libtpm2-pkcs11-tools openjdk-17-jre-headless curl valgrind
	gnome-keyring gcr libpam-gnome-keyring libsecret-tools pamtester libpam-wrapper
	libssl-dev python3-secretstorage python3-keyring python3-gi gir1.2-secret-1 chromium seahorse at-spi2-core gir1.2-atspi-2.0
	lintian desktop-file-utils appstream man-db zsh fish tcsh
)

fedora="python3-paramiko python3-asyncssh ca-certificates dbus-daemon dbus-tools systemd glib2 git make golang gcc glibc-devel procps-ng socat strace gdb openssl openssh-clients openssh-server gnupg2 swtpm swtpm-tools tpm2-tools tpm2-openssl pinentry pinentry-tty pinentry-qt opensc p11-kit p11-kit-server gnutls-utils openssl-pkcs11 nss-tools softhsm java-17-openjdk-headless curl gnome-keyring gnome-keyring-pam libsecret pamtester pam_wrapper pkgconf libX11-devel libXcursor-devel libXrandr-devel libXinerama-devel libXi-devel libXxf86vm-devel mesa-libGL-devel libxkbcommon-devel wayland-devel xorg-x11-server-Xvfb xdotool openbox wmctrl setxkbmap mesa-dri-drivers"
arch="python-paramiko python-asyncssh ca-certificates dbus systemd glib2 git make go gcc procps-ng socat strace gdb openssl openssh gnupg swtpm tpm2-tools tpm2-openssl pinentry opensc p11-kit gnutls libp11 nss softhsm jre17-openjdk-headless curl gnome-keyring libsecret pamtester pam_wrapper pkgconf libx11 libxcursor libxrandr libxinerama libxi libxxf86vm libglvnd libxkbcommon wayland xorg-server-xvfb xdotool openbox wmctrl xorg-setxkbmap mesa"

need_go() {
	local want have
	want=$(awk '$1 == "go" { print $2; exit }' "$(dirname "$0")/../go.mod")
	have=$(go env GOVERSION 2>/dev/null || true)
	have=${have#go}
	if [ -z "$have" ]; then
		echo "deps: keyringd needs Go $want or newer, and there is no go command: https://go.dev/doc/install" >&2
		exit 1
	fi
	if [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
		echo "deps: keyringd needs Go $want or newer, and this is $have: https://go.dev/doc/install" >&2
		exit 1
	fi
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# The tests start an sshd of their own on loopback. Installing openssh-server
# would also start one for the whole machine, which nobody asked for: services
# are held back during the install, and that one is not enabled for later.
hold_services() {
	policy=/usr/sbin/policy-rc.d
	[ ! -e "$policy" ] || return 0 # the machine has a rule of its own
	trap 'as_root rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
	as_root chmod 0755 "$policy"
}

# Tests fetch nothing, so that they need no network.
fetch_clients() {
	(cd "$(dirname "$0")/../tools/clients" &&
		go list -deps -test $(awk '$1 == "_" { gsub(/"/, "", $2); print $2 }' clients.go) >/dev/null) ||
		echo "deps: the modules of tools/clients cannot be fetched; the test that needs them is skipped" >&2
}

apt() {
	as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
		apt-get -q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" </dev/null
}

wanted=("${build[@]}")
what=${1:-all}
case $what in
all) wanted+=("${window[@]}" "${demo[@]}" "${tests[@]}") ;;
demo) wanted+=("${demo[@]}") ;;
build) wanted+=("${window[@]}") ;;
*)
	echo "usage: scripts/deps.sh [all|demo|build]" >&2
	exit 2
	;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
	need_go
	# A person who has seen the list once should not see it at every make.
	mark=$(dirname "$0")/../.cache/deps-named
	if [ ! -e "$mark" ]; then
		cat >&2 <<-EOF
			deps: this is not Debian or Ubuntu, so nothing is installed. keyringd is built and tested with
			  Fedora:  sudo dnf install $fedora
			  Arch:    sudo pacman -S --needed $arch
			Tests whose program is missing are skipped.
		EOF
		mkdir -p "$(dirname "$mark")" && : >"$mark"
	fi
	[ "$what" != all ] || fetch_clients
	exit 0
fi

missing=()
for package in "${wanted[@]}"; do
	status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
	echo "deps: installing ${missing[*]}"
	hold_services
	apt update
	apt install -y --no-install-recommends "${missing[@]}"
	if [[ " ${missing[*]} " == *" openssh-server "* ]] && [ -d /run/systemd/system ]; then
		as_root systemctl disable -q ssh.service ssh.socket 2>/dev/null || true
		echo "deps: sshd is installed but not enabled; 'systemctl enable --now ssh' would let others log in"
	fi
fi
need_go
[ "$what" != all ] || fetch_clients
