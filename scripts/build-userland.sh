#!/bin/sh
# build-userland.sh: makes a Debian 12 that VM tests boot without a disk, $XDG_CACHE_HOME/dnbd/userland/bookworm.erofs
# (~/.cache/dnbd/userland), once.
#
# It is the system that debootstrap's minimal variant makes, with systemd, a login on the console for root without a password, and
# what makes initramfs: initramfs-tools and dracut. The packages come from the mirror that apt is configured with; their signatures
# are checked. Remove the file to have the packages of today.
set -eu

userland=${XDG_CACHE_HOME:-${HOME:?}/.cache}/dnbd/userland
image=$userland/bookworm.erofs
packages=systemd-sysv,udev,dbus,kmod,iproute2,initramfs-tools,dracut-network,busybox,zstd

fail() {
	echo "build-userland: $*" >&2
	exit 1
}

# made says that the image is there, and has these packages.
made() {
	[ -e "$image" ] && [ "$(cat "$userland/packages" 2>/dev/null)" = "$packages" ]
}

! made || exit 0
command -v apt-get >/dev/null && [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || {
	echo "build-userland: it is made by apt, for amd64; this machine does without" >&2
	exit 0
}
[ "$(id -u)" = 0 ] || {
	echo "build-userland: it is made by root; you have to do without" >&2
	exit 0
}
for program in mmdebstrap mkfs.erofs flock; do
	command -v $program >/dev/null || fail "the program $program is missing: run scripts/install-deps.sh vm on Debian"
done
mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}

mkdir -p "$userland"
exec 9>"$userland/lock"
flock 9
! made || exit 0 # another process was faster
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Nobody reads documentation there, and no disk is to be looked for.
mmdebstrap --quiet --variant=minbase --mode=root \
	--include="$packages" \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
	--customize-hook='chroot "$1" passwd -q -d root' \
	--customize-hook='echo diskless >"$1/etc/hostname"' \
	--customize-hook='rm -rf "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/* "$1"/etc/fstab' \
	bookworm "$work/root" "$mirror" >&2 || fail "no Debian could be made from $mirror"
mkfs.erofs --quiet -z lz4hc "$work/image" "$work/root" >&2 || fail "no file system could be made of it"
mv "$work/image" "$image.new"
mv "$image.new" "$image"
echo "$packages" >"$userland/packages"
echo "build-userland: made $image" >&2
