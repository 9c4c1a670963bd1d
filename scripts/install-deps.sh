#!/bin/sh
# install-deps.sh PURPOSE: installs the Debian packages that a purpose needs and this machine lacks.
#
# The one list of them. Nothing is asked of apt when nothing is missing. Without root, or where there is no apt, it says what is
# missing and succeeds: what needs it then skips and says why, or fails when DNBD_REQUIRE=1.
set -eu

# Certificates let go fetch modules.
build="ca-certificates"
# What namespaces, their shaping and their faults take: package e2e/lab.
lab="$build iproute2 util-linux nftables ethtool"
# Foreign programs that tests compare with: they read our NBD, make file systems, look into them, give addresses, read our units.
foreign="libnbd-bin python3-libnbd qemu-utils nbdkit nbd-client nbd-server fio erofs-utils squashfs-tools e2fsprogs fuse3 mount diffutils openssl minisign dnsmasq-base systemd mdadm"
# Virtual machines, their firmware and kernels, and what is in their first file system: package e2e/vm, fetch-kernels.sh.
vm="qemu-system-x86 busybox-static kmod xz-utils lz4 zstd mmdebstrap erofs-utils debian-archive-keyring ovmf ipxe"

case "${1-}" in
build) want="$build" ;;
run)   want="$lab squashfs-tools" ;;
vm)    want="$lab $vm" ;;
test)  want="$lab $vm $foreign gcc libc6-dev" ;; # the race detector needs a C compiler
bench) want="$lab libnbd-bin nbdkit nbd-server nbd-client e2fsprogs mount qemu-utils fio udpcast uftp erofs-utils" ;;
*)     echo "usage: $0 build|run|vm|test|bench" >&2; exit 2 ;;
esac

command -v dpkg-query >/dev/null || {
	echo "install-deps: not a Debian system; what is needed is known there as: $want" >&2
	exit 0
}
missing=
for p in $want; do
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "install-deps: not root, so these stay missing:$missing" >&2
	exit 0
fi
echo "install-deps: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >&2
# shellcheck disable=SC2086 # a list of words
apt-get -q install -y --no-install-recommends $missing >&2
