# Measures the rows in the guest: `sh rows.sh TAG WALK FILES READ SMALL`. The share is mounted at /mnt/TAG.
# WALK and READ are its folders, with FILES and SMALL files. Before each row it prints `ready NAME` and waits
# for the file go-NAME in the channel, so that the host can read the CPU time of the daemon. After the row it
# prints `row NAME COUNT NANOSECONDS`. If a row fails, it prints `failed NAME REASON` and ends.
tag=$1 walk=$2 files=$3 read=$4 small=$5
share=/mnt/$tag

gcc -O2 -static -o /tmp/work /extra/work.c || exit 2

# Empties the guest's caches. The host's caches stay warm.
cold() {
    umount "$share" && echo 3 > /proc/sys/vm/drop_caches && mount -t virtiofs -o ro "$tag" "$share" || exit 3
    # Loads the programs into the guest's memory, as if they had run before.
    /tmp/work run sh -c 'ls -lR /extra; find /extra -size 0' > /tmp/small 2>&1 || exit 4
}

# `row NAME COUNT WORK...`
row() {
    name=$1 count=$2
    shift 2
    cold
    echo "ready $name"
    until [ -e "/run/channel/go-$name" ]; do sleep 0.02; done
    if out=$(/tmp/work "$@"); then echo "row $name $count $out"; else echo "failed $name $out"; exit 5; fi
}

# `lines NAME COUNT PATTERN`: the output of the row has so many lines with the pattern.
lines() {
    if [ "$(grep -c "$3" /tmp/out)" != "$2" ]; then echo "failed $1 not $2 lines with $3"; exit 5; fi
}

row ls "$files" run sh -c "exec ls -lR $share/$walk > /tmp/out"
lines ls "$files" '^-'
row find "$files" run sh -c "exec find $share/$walk -size 0 -type f > /tmp/out"
lines find "$files" 'file-'
row read "$small" read "$share/$read" "$small"
