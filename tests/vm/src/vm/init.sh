#!/bin/busybox sh
# The first program of the machine: builds its root from the host's files and starts the guest's agent.
# Words between two @ are filled in before use.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
# Nobody may be left to end the machine.
(sleep @LIMIT@; poweroff -f) &
for module in /modules/*.ko; do
    insmod "$module" || echo "$module was not loaded"
done
plan9=trans=virtio,version=9p2000.L,msize=262144
mount -t tmpfs tmpfs /layer
mkdir /layer/upper /layer/work
mount -t 9p -o $plan9,ro,cache=loose root /host
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs dev /root/dev
mount -t tmpfs tmpfs /root/run
mkdir /root/run/share
mount -t 9p -o $plan9,cache=none share /root/run/share
# Where the kernel asks for a module by itself; it knows this root alone.
cat > /root/run/modprobe <<'END'
#!/bin/sh
@MODPROBE@
END
cat > /modprobe <<'END'
#!/bin/busybox sh
exec /bin/chroot /root /run/modprobe "$@"
END
chmod 755 /root/run/modprobe /modprobe
echo /modprobe > /proc/sys/kernel/modprobe
for all in /proc/sys/net/ipv4/conf/all /proc/sys/net/ipv4/conf/default; do
    echo 0 > $all/rp_filter
done
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
chroot /root ip link set lo up
chroot /root ip link set eth0 up
chroot /root @AGENT@
poweroff -f
