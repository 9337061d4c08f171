# Measures the rows in the guest: `sh rows.sh TAG FILES ARCHIVED CREATED PART`. The share is mounted at
# /mnt/TAG. Prints `row NAME COUNT NANOSECONDS` or `row NAME persecond NUMBER`. For work that failed it
# prints `failed NAME REASON` and continues with the next row.
# PART is `metadata`, `small` (also the other rows with small files), or `all`.
tag=$1 files=$2 archived=$3 created=$4 part=$5
share=/mnt/$tag

gcc -O2 -static -o /tmp/work /extra/work.c || exit 2

# Empties the guest's caches and makes the daemon forget its inodes. The host's caches stay warm.
cold() {
    umount "$share" && echo 3 > /proc/sys/vm/drop_caches && mount -t virtiofs "$tag" "$share" || exit 3
}

timed() {
    name=$1 count=$2
    shift 2
    if out=$(/tmp/work "$@"); then echo "row $name $count $out"; else echo "failed $name $out"; fi
}

random() {
    # Version 3 of fio's terse output has the operations per second in field 8 for reads and 49 for writes.
    # --gtod_reduce reads the clock rarely: that is a system call here, and two of them for each operation
    # would halve every figure.
    name=$1 field=$2
    shift 2
    if fio --name=random --filename="$share/big" --bs=4k --ioengine=psync --size=128M --io_size=96M --thread \
        --gtod_reduce=1 --randrepeat=1 --output-format=terse --terse-version=3 "$@" > /tmp/fio.out 2>&1; then
        echo "row $name persecond $(tail -n 1 /tmp/fio.out | cut -d';' -f"$field")"
    else
        echo "failed $name $(tail -n 1 /tmp/fio.out)"
    fi
}

cold
timed stat-cold "$files" stat "$share/tree" "$files"
# With --cache=auto the guest trusts names and attributes for one second. Let that time pass.
sleep 1.1
timed stat-warm "$files" stat "$share/tree" "$files"
cold
timed read "$files" read "$share/tree" "$files"
if [ "$part" = metadata ]; then exit 0; fi

cold
mkdir "$share/unpacked" "$share/new" || exit 4
# Loads the pages of tar into the guest's memory, as for a program that has run before.
tar --version > /tmp/tar.out
timed unpack "$archived" run tar -xf "$share/archive.tar" -C "$share/unpacked"
timed create "$created" create "$share/new" "$created"
timed remove "$created" remove "$share/new" "$created"
if [ "$part" = small ]; then exit 0; fi

cold
random read-direct 8 --rw=randread --direct=1
random read-buffered 8 --rw=randread --direct=0
random write-buffered 49 --rw=randwrite --direct=0
random write-direct 49 --rw=randwrite --direct=1
