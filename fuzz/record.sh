#!/bin/sh
# Records the messages of a real Linux client: `fuzz/record.sh PINHOLE TRACE` serves an empty folder
# with `PINHOLE mount` under strace, and works on it with shell commands.
# `cargo run --example seeds` writes the seed corpora from TRACE.
# Needs root, /dev/fuse and strace (Debian: apt-get install strace).
set -eu
pinhole=$1
trace=$2
work=$(mktemp -d)
mkdir "$work/share" "$work/mnt"
strace -f -xx -s 65536 -e trace=read,writev -o "$trace" \
    "$pinhole" mount --xattr --threads 1 --cache never "$work/share" "$work/mnt" 2>"$work/log" &
until grep -q Mounted "$work/log"; do
    sleep 0.1
done
cd "$work/mnt"
mkdir -p a/b/c empty
echo hello >a/file
cat a/file a/file >a/b/twice
echo more >>a/file
ln a/file a/b/hard
ln -s ../file a/b/soft
cat a/b/soft
mkfifo a/fifo
chmod 600 a/file
chown 1:1 a/b/twice
touch -d '2001-02-03 04:05:06.789' a/file
truncate -s 100 a/file
truncate -s 3 a/b/hard
mv a/b/twice a/b/c/moved
mv -n a/file a/b/c/moved
mv --exchange a/file a/b/c/moved 2>/dev/null || true
dd if=/dev/zero of=a/big bs=700 count=3 2>/dev/null
dd if=/dev/zero of=a/big bs=1 count=5 seek=100 conv=notrunc,fsync 2>/dev/null
fallocate -l 5000 a/big
fallocate -p -o 0 -l 4096 a/big
cp --sparse=always a/big a/copy
cp --reflink=auto a/big a/b/copy
ls -la . a a/b
find . -type f
stat -f . >/dev/null
sync a/big
setfattr -n user.seed -v value a/file 2>/dev/null || true
getfattr -d a/file >/dev/null 2>&1 || true
rm a/copy a/b/soft
rmdir empty
rmdir a 2>/dev/null || true
ls missing 2>/dev/null || true
cd /
umount "$work/mnt"
wait
rm -r "$work"
