# shellcheck shell=sh
# dracut reads this file when it looks at the kernel's command line. dnbd-root.sh says what dnbd= and nbdroot= mean.

if getarg dnbd= >/dev/null || getarg nbdroot= >/dev/null; then
	# shellcheck disable=SC2034 # dracut wants to know
	root=dnbd rootok=1
	echo rd.neednet=1 >/etc/cmdline.d/60-dnbd.conf
	getarg ip= >/dev/null || echo ip=dhcp >>/etc/cmdline.d/60-dnbd.conf
	# shellcheck disable=SC2016 # it is for later
	echo '[ -e "$NEWROOT/proc" ]' >"$hookdir/initqueue/finished/dnbd.sh"
fi
