#!/bin/bash
# The module dnbd of dracut: puts into an initramfs what a machine needs whose root is an image of a dnbd group.

# called by dracut, which does not look into /usr/local by itself
check() {
	require_any_binary /usr/local/bin/dnbd /usr/bin/dnbd && require_binaries blkid blockdev mkfifo || return 1
}

# called by dracut
depends() {
	echo base network
}

# called by dracut
installkernel() {
	# All kernels' ways to attach that there are, and what may be in an image, whatever this machine uses now.
	hostonly='' instmods fuse loop nbd ublk_drv overlay erofs squashfs ext4 xfs btrfs
}

# called by dracut
install() {
	local file
	for file in /usr/bin/dnbd /usr/local/bin/dnbd; do
		[ ! -x "$dracutsysrootdir$file" ] || inst "$file" /usr/bin/dnbd
	done
	# The name by which it is started: systemd leaves a process alone at shutdown whose name begins like this.
	ln -sf dnbd "$initdir/usr/bin/@dnbd"
	# The group's key, if it is to be there. Only root can read what dracut makes.
	[ ! -e "$dracutsysrootdir/etc/dnbd/initramfs.key" ] || inst_simple /etc/dnbd/initramfs.key
	inst_multiple blkid blockdev cat ip mkdir mkfifo mount rm sleep
	inst_simple "$moddir/dnbd-root.sh" /lib/dnbd-root.sh
	inst_hook cmdline 90 "$moddir/parse-dnbd.sh"
	inst_hook initqueue/settled 90 "$moddir/mount-dnbd.sh"
	# networkd does not see what parse-dnbd.sh asks for. What ip= says comes before it: as 90- and 91-.
	local word
	mkdir -p "$initdir/etc/systemd/network"
	for word in dnbd nbdroot; do
		printf '[Match]\nType=ether\nKernelCommandLine=%s\n\n[Network]\nDHCP=yes\n' "$word" >"$initdir/etc/systemd/network/98-$word.network"
	done
	dracut_need_initqueue
}
