# shellcheck shell=sh
# dracut reads this file when devices are there.

# dnbd_network: waits until dracut's network has an address.
dnbd_network() {
	case $(getarg ip=) in
	none | off) return 0 ;; # somebody else has done it
	esac
	dnbd_left=$dnbd_wait
	until [ -n "$(ip -o address show up scope global)" ]; do
		[ "$dnbd_left" -gt 0 ] || {
			dnbd_fail "there is no network: no network card was found, or DHCP does not answer"
			return
		}
		[ $((dnbd_left % 10)) != 0 ] || echo "dnbd: waiting for the network, $dnbd_left s more" >/dev/console
		dnbd_left=$((dnbd_left - 1))
		sleep 1
	done
}

if [ "$root" = dnbd ] && [ ! -e "$NEWROOT/proc" ]; then
	# shellcheck source=boot/dnbd-root.sh
	. /lib/dnbd-root.sh
	# shellcheck disable=SC2034 # for dnbd_mount
	rootmnt=$NEWROOT readonly=y ROOTFSTYPE=$(getarg rootfstype=) ROOTFLAGS=$(getarg rootflags=)
	# shellcheck disable=SC2034
	! getarg rw >/dev/null || readonly=n
	ROOTFLAGS=${ROOTFLAGS:+-o $ROOTFLAGS}
	dnbd_root
fi
