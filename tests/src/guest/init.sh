#!/bin/busybox sh
# The first process of a test guest. The harness puts `/settings` beside it, which sets
#   channel  the host folder for output and exit code (User-mode Linux); empty: two serial lines
#   userland the host folder of a Debian userland, or empty
#   root     the tag of a read-only share whose tree is the script's root, or empty
#   shell    the terminal for the user after the script, or empty
# and defines mount_shares.
/bin/busybox --install -s /bin
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts pts /dev/pts
for module in fuse virtiofs overlay erofs loop; do
    if [ -e /modules/$module.ko ]; then insmod /modules/$module.ko; fi
done
. /settings

if [ -n "$channel" ]; then
    mkdir /channel
    mount -t hostfs -o "$channel" host /channel
    output=/channel/output status=/channel/status
else
    stty -F /dev/ttyS1 raw -echo
    stty -F /dev/ttyS2 raw -echo
    output=/dev/ttyS1 status=/dev/ttyS2
fi
if [ -n "$shell" ]; then output=/dev/console; fi

finish() {
    echo "$1" > $status
    sync
    umount -a -t virtiofs
    poweroff -f
}

top=
if [ -n "$userland" ]; then
    top=/userland
    mkdir $top
    mount -t hostfs -o "ro,$userland" host $top
    mount -t proc proc $top/proc
    mount -t sysfs sys $top/sys
    mount -o bind /dev $top/dev
    mount -o bind /extra $top/extra
    mount -t tmpfs run $top/run
    mkdir $top/run/channel
    mount -o bind /channel $top/run/channel
    mount -t tmpfs mnt $top/mnt
fi
if [ -n "$root" ]; then
    top=/root-of-script
    mkdir $top /share /layers
    mount -t virtiofs -o ro "$root" /share || { echo "cannot mount $root" >> $output; finish 125; }
    mount -t tmpfs layers /layers
    mkdir /layers/upper /layers/work
    mount -t overlay -o lowerdir=/share,upperdir=/layers/upper,workdir=/layers/work root $top ||
        { echo "cannot mount overlayfs on $root" >> $output; finish 125; }
    mount -t proc proc $top/proc
    mount -t sysfs sys $top/sys
    mount -o bind /dev $top/dev
    mkdir -p $top/extra $top/run $top/tmp
    mount -o bind /extra $top/extra
    mount -t tmpfs run $top/run
fi
mount -t tmpfs -o mode=1777 tmp $top/tmp
mount -t tmpfs -o mode=1777 shm $top/dev/shm
mount_shares >> $output 2>&1 || finish 125

run() {
    if [ -n "$top" ]; then chroot $top /bin/sh "$@"; else sh "$@"; fi
}
run /extra/script >> $output 2>&1 < /dev/null
code=$?
if [ -n "$shell" ]; then
    cd $top/mnt
    setsid sh -c "exec sh -i < $shell > $shell 2>&1"
fi
finish $code
