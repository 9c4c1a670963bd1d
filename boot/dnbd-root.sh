# shellcheck shell=sh
# The root of a diskless machine is an image of a dnbd group, or an export of an NBD server. This is what initramfs-tools and dracut
# have in common; each defines dnbd_network, and then calls dnbd_root. It runs when one of these is on the kernel's command line:
#
#	dnbd=GROUP:IMAGE[:OPTION,...]     an empty GROUP is the default one; IPv6 in brackets
#	dnbd=URI[,OPTION...]              as dnbd attach takes it: dnbd://GROUP:PORT/IMAGE, nbd://SERVER/EXPORT
#	nbdroot=SERVER,EXPORT             as nbd-client takes it, whose third word, the device, is left out of account,
#	nbdroot=SERVER[:PORT]/EXPORT      or with the port
#	dnbd.wait=SECONDS                 for the network at most, and then for a server; 120 unless set
#
# What the machine writes goes to memory, unless OPTION is overlay=none: over the files of the image (overlay=memory, the default), or
# over its blocks (cow=mem). With nbdroot= it goes to the server, as it does with nbd-client. Any other OPTION is a flag of dnbd
# attach without its dashes, such as cache-size=256M, io-timeout=1m, unicast=SERVER, trust=KEY, the text of a public key, or
# group-key=/etc/dnbd/initramfs.key, which is in the initramfs if it was there when that was made. ro, rw, ip=, rootfstype= and
# rootflags= are what they are for other roots; panic= says what happens when there is no root and nobody to ask.
#
# It is for any POSIX shell: busybox's, dash, bash.

# Where what the root is made of stays mounted; the running system sees it, too.
dnbd_dir=/run/dnbd-root

# dnbd_fail WHY: keeps the reason for who gets to read it.
dnbd_fail() {
	dnbd_why=$*
	return 1
}

# dnbd_parse WORD...: sets dnbd_image, dnbd_flags, dnbd_overlay, dnbd_wait and dnbd_panic from the words of the kernel's command line.
dnbd_parse() {
	dnbd_image=
	dnbd_flags=
	dnbd_options=
	dnbd_overlay=memory
	dnbd_wait=120
	dnbd_panic=
	dnbd_word=
	for x; do
		case $x in
		dnbd=* | nbdroot=*) dnbd_word=$x ;;
		dnbd.wait=*[!0-9]* | dnbd.wait=) ;;
		dnbd.wait=*) dnbd_wait=${x#dnbd.wait=} ;;
		panic=*) dnbd_panic=${x#panic=} ;;
		esac
	done
	case $dnbd_word in
	nbdroot=*) dnbd_parse_nbdroot "${dnbd_word#nbdroot=}" ;;
	*) dnbd_parse_dnbd "${dnbd_word#dnbd=}" ;;
	esac
	[ -n "$dnbd_image" ] || {
		dnbd_fail "$dnbd_word on the kernel's command line names no image: write dnbd=GROUP:IMAGE or nbdroot=SERVER,EXPORT"
		return
	}
	set -f # a * is no file here
	for x in $(echo "$dnbd_options" | tr , ' '); do
		case $x in
		overlay=*)
			dnbd_overlay=${x#overlay=}
			continue
			;;
		cow=*) dnbd_overlay=none ;; # there is one already
		esac
		dnbd_flags="$dnbd_flags --$x"
	done
	set +f
	case $dnbd_overlay in
	memory | none) ;;
	*) dnbd_fail "overlay=$dnbd_overlay in dnbd= on the kernel's command line: there are memory and none" ;;
	esac
}

# dnbd_parse_nbdroot VALUE: sets dnbd_image and dnbd_overlay.
dnbd_parse_nbdroot() {
	dnbd_value=${1%,nbd[0-9]*}
	dnbd_overlay=none
	case $dnbd_value in
	*,*[!0-9]*) dnbd_value=${dnbd_value%%,*}/${dnbd_value#*,} ;;
	*,[0-9]*) dnbd_value=${dnbd_value%%,*}:${dnbd_value#*,}/ ;; # exports of old were ports
	esac
	case $dnbd_value in
	[!/:,]*/*) dnbd_image=nbd://$dnbd_value ;;
	esac
}

# dnbd_parse_dnbd VALUE: sets dnbd_image and dnbd_options.
dnbd_parse_dnbd() {
	dnbd_value=$1
	case $dnbd_value in
	*://*)
		dnbd_image=${dnbd_value%%,*}
		dnbd_options=${dnbd_value#"$dnbd_image"}
		;;
	*:*)
		case $dnbd_value in
		\[*]:*) dnbd_group=${dnbd_value%%]:*}] ;;
		*) dnbd_group=${dnbd_value%%:*} ;;
		esac
		dnbd_rest=${dnbd_value#"$dnbd_group":}
		dnbd_image=${dnbd_rest%%:*}
		dnbd_options=${dnbd_rest#"$dnbd_image"}
		dnbd_options=${dnbd_options#:}
		[ -z "$dnbd_image" ] || dnbd_image=${dnbd_group:+dnbd://$dnbd_group/}$dnbd_image
		;;
	esac
}

# dnbd_later SECONDS COMMAND...: runs a command later, unless process $dnbd_timer is told to end before.
dnbd_later() {
	dnbd_seconds=$1
	shift
	(
		s=
		trap 'kill $s; exit' TERM
		sleep "$dnbd_seconds" &
		s=$!
		wait "$s" && "$@"
	) 2>/dev/null &
	dnbd_timer=$!
}

# dnbd_attach: attaches the image and sets dnbd_device. dnbd says on the console what it waits for.
dnbd_attach() {
	[ ! -b "${dnbd_device-}" ] || return 0 # what came after it is tried again
	for x in fuse loop nbd ublk_drv; do
		modprobe -q $x # what there is of it: not all kernels have all of them
	done
	# cow=mem wants it, and the running system keeps it.
	[ -d /dev/shm ] || { mkdir /dev/shm && mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm; }
	mkdir -p "$dnbd_dir"
	rm -f "$dnbd_dir/device"
	mkfifo "$dnbd_dir/device"
	dnbd_patience=
	case $dnbd_image in
	nbd*://*) ;; # an NBD server answers, or does not
	*) dnbd_patience=--wait=${dnbd_wait}s ;;
	esac
	# It has to stay in memory, and to be started again without the root when it dies.
	# shellcheck disable=SC2086 # a list of flags
	@dnbd attach --foreground --supervise $dnbd_patience $dnbd_flags "$dnbd_image" /dev/dnbd-root >"$dnbd_dir/device" </dev/null 2>/dev/console &
	# The first line, or the end of the process.
	read -r dnbd_device <"$dnbd_dir/device" || dnbd_fail "$dnbd_image cannot be attached; the line above says why"
}

# dnbd_mount: mounts the device at $rootmnt, as $readonly, $ROOTFSTYPE and $ROOTFLAGS have it.
dnbd_mount() {
	dnbd_type=${ROOTFSTYPE:-$(blkid -o value -s TYPE "$dnbd_device")}
	[ -n "$dnbd_type" ] || {
		dnbd_fail "$dnbd_image has no file system that is known here; rootfstype= names it"
		return
	}
	dnbd_at=$rootmnt
	[ "$dnbd_overlay" = none ] || dnbd_at=$dnbd_dir/image
	dnbd_options="-o ro"
	[ "$dnbd_overlay" = memory ] || [ "${readonly-}" = y ] || dnbd_options="-o rw"
	if [ "$(blockdev --getro "$dnbd_device")" = 1 ]; then
		case $dnbd_type in # not even a journal can be written to
		ext3 | ext4) dnbd_options="-o ro,noload" ;;
		xfs) dnbd_options="-o ro,norecovery" ;;
		esac
	fi
	mkdir -p "$dnbd_at"
	modprobe -q "$dnbd_type"
	# shellcheck disable=SC2086 # flags and their values
	mount -t "$dnbd_type" $dnbd_options ${ROOTFLAGS-} "$dnbd_device" "$dnbd_at" || {
		dnbd_fail "$dnbd_image cannot be mounted as $dnbd_type"
		return
	}
	[ "$dnbd_overlay" = memory ] || return 0
	modprobe -q overlay
	mkdir -p "$dnbd_dir/memory" &&
		mount -t tmpfs -o mode=0755 dnbd "$dnbd_dir/memory" &&
		mkdir "$dnbd_dir/memory/upper" "$dnbd_dir/memory/work" &&
		mount -t overlay -o "lowerdir=$dnbd_at,upperdir=$dnbd_dir/memory/upper,workdir=$dnbd_dir/memory/work" dnbd "$rootmnt" ||
		dnbd_fail "no overlay can be put over $dnbd_image"
}

# dnbd_choose: says why there is no root, and lets whoever is there choose what to do. When nobody is, the machine reboots. With
# panic= there is no shell, and it reboots after so many seconds, at once if they are negative, or never if they are 0.
dnbd_choose() {
	echo "dnbd: no root: $dnbd_why" >/dev/console
	dnbd_menu="dnbd: Enter: try again, r: reboot"
	dnbd_seconds=$dnbd_panic
	case $dnbd_panic in
	'') dnbd_menu="$dnbd_menu, s: shell" dnbd_seconds=60 ;;
	-*) dnbd_reboot ;;
	esac
	dnbd_timer=
	[ "$dnbd_seconds" = 0 ] || {
		dnbd_menu="$dnbd_menu; nothing: reboot in $dnbd_seconds s"
		dnbd_later "$dnbd_seconds" dnbd_reboot
	}
	echo "$dnbd_menu" >/dev/console
	read -r dnbd_answer </dev/console || wait $dnbd_timer # there may be nobody who could answer
	kill $dnbd_timer 2>/dev/null
	case $dnbd_answer$dnbd_panic in
	r*) dnbd_reboot ;;
	s) PS1='(dnbd) ' sh -i </dev/console >/dev/console 2>&1 ;;
	esac
}

# dnbd_reboot: reboots, as there is nothing that could be lost.
dnbd_reboot() {
	echo "dnbd: rebooting" >/dev/console
	echo b >/proc/sysrq-trigger || reboot -f
}

# dnbd_root: mounts the root at $rootmnt. It tries until it has succeeded.
dnbd_root() {
	# shellcheck disable=SC2046 # a list of words
	until dnbd_parse $(cat /proc/cmdline) && dnbd_network && dnbd_attach && dnbd_mount; do
		dnbd_choose
	done
}
