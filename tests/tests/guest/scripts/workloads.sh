# The workloads: `sh workloads.sh NAME SHARE`. Each prints its results and ends with its exit code.
set -e
name=$1
share=$2

# fio writes, then reads back and checks the crc32c of every block. Every engine gets its own file.
verified() {
    engine=$1
    shift
    fio --name="$engine" --directory="$share/fio" --ioengine="$engine" --size=24M --verify=crc32c --do_verify=1 \
        --verify_fatal=1 --verify_backlog=512 --randrepeat=1 --group_reporting --minimal "$@" > /tmp/fio.out 2>&1 || {
        cat /tmp/fio.out
        exit 1
    }
    if grep -i -e 'verify: bad' -e 'err=' /tmp/fio.out; then exit 1; fi
    echo "verified $engine $*"
}

case $name in
fio_buffered)
    mkdir -p "$share/fio"
    verified psync --filename=sequential --rw=write --bs=64k --fsync_on_close=1
    verified psync --filename=random --rw=randrw --bs=4k
    ;;
fio_direct)
    mkdir -p "$share/fio"
    verified psync --filename=direct --direct=1 --rw=randwrite --bs=4k
    verified libaio --filename=direct-queued --direct=1 --rw=randrw --bs=16k --iodepth=16
    ;;
fio_mmap)
    mkdir -p "$share/fio"
    verified mmap --filename=mapped --rw=randwrite --bs=4k
    ;;
git)
    export HOME=/tmp GIT_AUTHOR_DATE="2000-01-01T00:00:00Z" GIT_COMMITTER_DATE="2000-01-01T00:00:00Z"
    git config --global user.name guest
    git config --global user.email guest@example.org
    git config --global init.defaultBranch main
    git config --global --add safe.directory '*'
    cd "$share"
    git init -q repository
    cd repository
    for folder in a b c d e f g h; do
        mkdir $folder
        for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            seq $number 200 > $folder/$number
        done
    done
    git add .
    git commit -q -m first
    git checkout -q -b branch
    git mv a renamed
    git rm -q -r b
    seq 1000 > c/1
    git commit -q -a -m second
    git checkout -q main
    seq 5 > d/1
    git commit -q -a -m third
    git merge -q -m merged branch
    git gc -q
    git fsck --full --strict
    git status --porcelain
    git clone -q . ../clone
    git -C ../clone fsck --full
    git rev-parse HEAD^{tree}
    git -C ../clone rev-parse HEAD^{tree}
    git log --oneline | wc -l
    ;;
tarball)
    mkdir "$share/unpacked"
    tar -xpf "$share/tree.tar" -C "$share/unpacked"
    tar --compare -f "$share/tree.tar" -C "$share/unpacked"
    find "$share/unpacked" -type f | wc -l
    tar -cf - -C "$share/unpacked" tree | tar -tf - | wc -l
    ;;
sqlite)
    for journal in delete wal truncate; do
        sqlite3 -bail "$share/$journal.db" "
            pragma journal_mode = $journal;
            create table words (id integer primary key, word text unique, size integer);
            with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
                insert into words select i, 'word-' || (i * 7919 % 20011), i % 97 from n;
            create index sizes on words (size);
            begin; delete from words where id % 3 = 0; rollback;
            update words set word = word || 'x' where size < 50;
            delete from words where size = 7;
            vacuum;
            pragma integrity_check;
            select count(*), sum(size), sum(length(word)) from words;"
        # Single transactions, each with its syncs.
        for number in 1 2 3 4 5; do
            sqlite3 -bail "$share/$journal.db" "insert into words values ($number + 100000, 'late $number', 1000);"
        done
        sqlite3 -bail "$share/$journal.db" "pragma integrity_check; select count(*) from words where size = 1000;"
    done
    ;;
sqlite_interrupted)
    # A writer is killed in the middle of its transaction. The next one finds the state before it.
    sqlite3 -bail "$share/killed.db" "create table t (x); insert into t values (1);"
    {
        echo "begin; pragma cache_size = 10;"
        seq -f "insert into t values (%g);" 1 20000
        echo ".print written"
        sleep 30
    } | sqlite3 "$share/killed.db" > /tmp/killed.out &
    for look in $(seq 200); do
        if grep -q written /tmp/killed.out; then break; fi
        sleep 0.1
    done
    writer=$!
    kill -9 $writer
    wait $writer || true
    ls "$share" | grep killed
    sqlite3 -bail "$share/killed.db" "pragma integrity_check; select count(*) from t;"
    ;;
compile)
    mkdir "$share/program"
    cd "$share/program"
    cat > main.c <<'END'
#include <stdio.h>
#include "part.h"
int main(void) { printf("%s %d\n", part_name(), part_sum(100)); return 0; }
END
    cat > part.h <<'END'
const char *part_name(void);
int part_sum(int n);
END
    cat > part.c <<'END'
#include "part.h"
const char *part_name(void) { return "compiled on the share"; }
int part_sum(int n) { return n ? n + part_sum(n - 1) : 0; }
END
    printf 'program: main.o libpart.a\n\t$(CC) -o $@ main.o -L. -lpart\nlibpart.a: part.o\n\tar rcs $@ $^\nmain.o part.o: part.h\n' > Makefile
    make -s CFLAGS=-O2
    ./program
    make -s -q && echo up to date
    touch part.h
    make -s -q || echo out of date
    ;;
esac
