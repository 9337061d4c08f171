# Times lock plus unlock, and two fstat calls, in turns. Prints one line per turn: both times in microseconds.
import fcntl, os, sys, time

TURNS, PAIRS = 7, 2000
fd = os.open(sys.argv[1], os.O_RDWR)


def locks():
    for _ in range(PAIRS):
        fcntl.lockf(fd, fcntl.LOCK_EX, 100)
        fcntl.lockf(fd, fcntl.LOCK_UN, 100)


def stats():
    for _ in range(PAIRS):
        os.fstat(fd)
        os.fstat(fd)


def each(work):
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e6 / PAIRS


for work in (locks, stats):
    work()
for _ in range(TURNS):
    print(each(locks), each(stats))
