"""Makes data durable in every way that Linux has, one step after another, and prints each
acknowledgement.

Each line of /extra/steps is the number of a step, a share, a way and a file, `new` or `old`. After a
step the host reads its disk, and then lets this program continue by a file in the share `control`.
power_loss.rs has the same data and offsets.
"""

import ctypes
import mmap
import os
import time

OLD_LEN = 16384
OFFSET = 4000
LEN = 6000

libc = ctypes.CDLL(None, use_errno=True)


def write(fd, data, offset, flags=0):
    assert os.pwritev(fd, [data], offset, flags) == len(data)


def store(fd, data, offset):
    if os.fstat(fd).st_size < offset + len(data):
        os.ftruncate(fd, offset + len(data))
    with mmap.mmap(fd, 0) as memory:
        memory[offset : offset + len(data)] = data
        memory.flush()


def sync_directory(path):
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def perform(path, way, data, offset):
    """Returns the file, which stays open until the host has read its disk: a close may write back."""
    if way == "unlink":
        os.unlink(path)
        return sync_directory(path)
    name = path + ".part" if way == "rename" else path
    flags = 0
    for flag in way.split("+") if way.startswith("O_") else ():
        flags |= getattr(os, flag)
    fd = os.open(name, os.O_RDWR | os.O_CREAT | flags, 0o644)
    if way == "msync":
        store(fd, data, offset)
        return fd
    write(fd, data, offset, {"RWF_SYNC": os.RWF_SYNC, "RWF_DSYNC": os.RWF_DSYNC}.get(way, 0))
    if way in ("fsync", "rename"):
        os.fsync(fd)
    elif way == "fdatasync":
        os.fdatasync(fd)
    elif way == "syncfs":
        if libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    elif way not in ("nothing", "RWF_SYNC", "RWF_DSYNC") and not flags:
        raise ValueError(way)
    if way == "rename":
        os.rename(name, path)
        sync_directory(path)
    return fd


def main():
    for line in open("/extra/steps"):
        number, share, way, file = line.split()
        data = (f"{share} {way} {file} " * LEN)[:LEN].encode()
        offset = OFFSET if file == "old" else 0
        left = perform(f"/mnt/{share}/{share}-{way}-{file}", way, data, offset)
        print(f"acknowledged {number}.", flush=True)
        while not os.path.exists(f"/mnt/control/{number}"):
            time.sleep(0.001)
        if left is not None:
            os.close(left)


main()
