#!/bin/sh
# fetch-kernels.sh: puts the kernels that VM tests boot into $XDG_CACHE_HOME/dnbd/kernels (~/.cache/dnbd/kernels), once, and the boot
# loaders that are signed for Secure Boot: shim and GRUB, as loaders/shimx64.efi and loaders/grubx64.efi. They are not installed, as that
# could change what this machine boots by.
#
# One directory for each suite of Debian below: vmlinux, which QEMU boots without unpacking it first; vmlinuz, for boot loaders; their
# config; the modules, not compressed and with modules.dep, as modules/; and release, what uname -r says. The packages come from
# the mirror that apt is configured with, by lists of their own: apt's configuration stays as it is. apt checks signatures. A
# directory that is there is complete and left alone; remove it to have the kernel of today.
set -eu

suites="bookworm bookworm-backports" # 6.1: nbd; 6.12: nbd, ublk, FUSE passthrough
package=linux-image-cloud-amd64
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
kernels=${XDG_CACHE_HOME:-${HOME:?}/.cache}/dnbd/kernels

fail() {
	echo "fetch-kernels: $*" >&2
	exit 1
}

# own_apt PROGRAM ARGUMENT...: a program of apt with a configuration for $suite below $work
own_apt() {
	program=$1
	shift
	"$program" -q -o Dir::Etc::sourcelist="$work/apt/suite.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/apt/lists" \
		-o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User= -o Acquire::Languages=none \
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# number OFFSET BYTES: what the boot header of ./vmlinuz says there, little-endian
number() {
	od -A n -t "u$2" -j "$1" -N "$2" vmlinuz | tr -d ' '
}

# unpack_vmlinuz: makes ./vmlinux from ./vmlinuz. Where the packed kernel is, the header says (Documentation/arch/x86/boot.rst):
# payload_offset counts from the end of the real-mode part, and the last four of payload_length are the unpacked size.
unpack_vmlinuz() {
	at=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
	length=$(($(number 588 4) - 4))
	tail -c "+$((at + 1))" vmlinuz | head -c "$length" >payload
	case $(od -A n -t x1 -N 4 payload) in
	*"fd 37 7a 58") xz -dc payload >vmlinux ;;
	*"02 21 4c 18") lz4 -qdc payload >vmlinux ;;
	*"28 b5 2f fd") zstd -qdc payload >vmlinux ;;
	*) fail "the kernel of $suite is packed in a way that this script does not know" ;;
	esac
	[ "$(od -A n -t x1 -N 4 vmlinux)" = " 7f 45 4c 46" ] || fail "what the kernel of $suite unpacks to is not an ELF file"
	rm payload
}

# lists: fetches the package lists of $suite
lists() {
	mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
	echo "deb [arch=amd64 signed-by=$keyring] $mirror $suite main" >"$work/apt/suite.list"
	own_apt apt-get update >&2 || fail "no package lists of $suite from $mirror"
}

# fetch_loaders: makes $kernels/loaders
fetch_loaders() {
	suite=bookworm
	lists
	mkdir "$work/loaders"
	cd "$work/loaders"
	own_apt apt-get download shim-signed:amd64 grub-efi-amd64-signed:amd64 >&2 || fail "shim and GRUB cannot be downloaded from $mirror"
	for file in *.deb; do
		dpkg -x "$file" root
	done
	cp root/usr/lib/shim/shimx64.efi.signed shimx64.efi
	# The one that is sent over the network, with all its modules.
	cp root/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed grubx64.efi
	rm -r root ./*.deb
	mv "$work/loaders" "$kernels/"
	echo "fetch-kernels: $kernels/loaders is there" >&2
}

# fetch: makes $kernels/$suite
fetch() {
	lists
	mkdir "$work/kernel"
	cd "$work/kernel"
	image=$(own_apt apt-cache depends "$package:amd64" | sed -n 's/.*Depends: \(linux-image-[^:]*\).*/\1/p')
	[ -n "$image" ] || fail "$suite has no $package"
	own_apt apt-get download "$image:amd64" >&2 || fail "$image of $suite cannot be downloaded from $mirror"
	dpkg -x "$image"_*.deb root
	release=${image#linux-image-}
	[ -d "root/lib/modules/$release" ] || release=$(ls root/lib/modules)
	cp "root/boot/vmlinuz-$release" vmlinuz
	unpack_vmlinuz
	mv "root/boot/config-$release" config
	find root/lib/modules -name '*.ko.xz' -exec xz -d {} +
	depmod -b root "$release"
	mv "root/lib/modules/$release" modules
	echo "$release" >release
	rm -r root ./*.deb
	mv "$work/kernel" "$kernels/$suite"
	echo "fetch-kernels: $kernels/$suite is $release" >&2
}

command -v apt-get >/dev/null && [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || {
	echo "fetch-kernels: kernels are fetched by apt, for amd64; this machine does without" >&2
	exit 0
}
missing=
for suite in $suites loaders; do
	[ -d "$kernels/$suite" ] || missing="$missing $suite"
done
[ -n "$missing" ] || exit 0

for program in dpkg depmod xz lz4 zstd flock; do
	command -v $program >/dev/null || fail "the program $program is missing: run scripts/install-deps.sh vm on Debian, as root"
done
[ -r $keyring ] || fail "$keyring is missing: install debian-archive-keyring"
mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}

mkdir -p "$kernels"
exec 9>"$kernels/lock"
flock 9
for suite in $missing; do
	[ ! -d "$kernels/$suite" ] || continue # another process was faster
	work=$(mktemp -d "$kernels/fetch.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	case $suite in
	loaders) (fetch_loaders) ;;
	*) (fetch) ;;
	esac
	rm -rf "$work"
done
