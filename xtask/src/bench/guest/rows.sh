# The rows inside the guest: `sh rows.sh TAG FILES ARCHIVED CREATED PART`, the share mounted at /mnt/TAG.
# It prints `row NAME COUNT NANOSECONDS` or `row NAME persecond NUMBER`, and `failed NAME WHY` for work that was not
# done; the rows behind it are measured all the same. PART is `metadata`, `small` for the other
# rows with small files too, or `all`.
tag=$1 files=$2 archived=$3 created=$4 part=$5
share=/mnt/$tag

gcc -O2 -static -o /tmp/work /extra/work.c || exit 2

# Nothing of the share in the guest's caches, nothing that the daemon knows from before; the host's caches stay warm.
cold() {
    umount "$share" && echo 3 > /proc/sys/vm/drop_caches && mount -t virtiofs "$tag" "$share" || exit 3
}

timed() {
    name=$1 count=$2
    shift 2
    if out=$(/tmp/work "$@"); then echo "row $name $count $out"; else echo "failed $name $out"; fi
}

random() {
    # The third format of fio's terse output: operations a second are field 8 for reads and 49 for writes. It looks at
    # the clock as rarely as it can: that is a system call here, and two for each operation would halve every figure.
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
# What a guest trusts for a second (--cache=auto) has to be asked again.
sleep 1.1
timed stat-warm "$files" stat "$share/tree" "$files"
cold
timed read "$files" read "$share/tree" "$files"
if [ "$part" = metadata ]; then exit 0; fi

cold
mkdir "$share/unpacked" "$share/new" || exit 4
# Its pages in the guest's memory, as those of any program that runs again.
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
