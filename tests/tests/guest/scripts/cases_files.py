"""Regular files: contents, sizes, holes, mappings."""

import fcntl
import mmap
import os
import subprocess
import time

from probe import (AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, COLLAPSE, INSERT, KEEP_SIZE, PUNCH_HOLE, ZERO, attempt,
                   birth_time, case, fallocate, linkat, mode_of, outcome, read, see, syncfs, write)

BLOCK = 4096


@case
def create_read_write():
    descriptor = os.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    see("written", os.write(descriptor, b"hello, host"))
    see("read at 7", os.pread(descriptor, 100, 7))
    see("read at the end", os.pread(descriptor, 100, 11))
    see("overwritten", os.pwrite(descriptor, b"J", 0))
    see("size", os.fstat(descriptor).st_size)
    see("write vectors", os.pwritev(descriptor, [b"ab", b"", b"cd"], 20))
    parts = [bytearray(3), bytearray(30)]
    see("read vectors", os.preadv(descriptor, parts, 0))
    see("vectors", bytes(parts[0] + parts[1]))
    os.close(descriptor)
    see("content", read("file"))
    see("mode", mode_of("file"))
    attempt("create again", os.open, "file", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    attempt("open what is not there", os.open, "absent", os.O_RDONLY)
    attempt("open below a file", os.open, "file/below", os.O_RDONLY)
    attempt("write to a directory", os.open, ".", os.O_WRONLY)
    attempt("file opened as directory", os.open, "file", os.O_RDONLY | os.O_DIRECTORY)
    reader = os.open("file", os.O_RDONLY)
    attempt("write on a reader", os.write, reader, b"x")
    os.close(reader)
    writer = os.open("file", os.O_WRONLY | os.O_TRUNC)
    attempt("read on a writer", os.read, writer, 1)
    os.close(writer)
    see("truncated by open", read("file"))
    write("large", bytes(range(256)) * 4096)
    see("large", read("large") == bytes(range(256)) * 4096)


@case
def append():
    write("log", b"0")
    one = os.open("log", os.O_WRONLY | os.O_APPEND)
    two = os.open("log", os.O_RDWR | os.O_APPEND)
    for number in range(1, 6):
        os.write(one if number % 2 else two, str(number).encode())
    see("pwrite appends all the same", os.pwrite(one, b"end", 0))
    see("position", os.lseek(one, 0, os.SEEK_CUR))
    see("content", read("log"))
    fcntl.fcntl(two, fcntl.F_SETFL, 0)
    see("after O_APPEND is taken away", os.pwrite(two, b"X", 0))
    plain = os.open("log", os.O_WRONLY)
    fcntl.fcntl(plain, fcntl.F_SETFL, os.O_APPEND)
    os.write(plain, b"!")
    see("RWF_APPEND", os.pwritev(two, [b"?"], 0, os.RWF_APPEND))
    for descriptor in (one, two, plain):
        os.close(descriptor)
    see("content at the end", read("log"))


@case
def truncate():
    write("file", b"x" * 10000)
    os.truncate("file", 5000)
    see("shrunk", read("file") == b"x" * 5000)
    os.truncate("file", 9000)
    see("grown with zeros", read("file") == b"x" * 5000 + bytes(4000))
    descriptor = os.open("file", os.O_RDWR)
    os.ftruncate(descriptor, 3)
    see("by descriptor", os.pread(descriptor, 100, 0))
    see("written past the end", os.pwrite(descriptor, b"y", 6))
    see("content", read("file"))
    attempt("negative", os.ftruncate, descriptor, -1)
    os.close(descriptor)
    reader = os.open("file", os.O_RDONLY)
    attempt("by a reader", os.ftruncate, reader, 1)
    os.close(reader)
    attempt("a directory", os.truncate, ".", 0)
    os.truncate("file", 5 << 30)
    see("five GiB", os.stat("file").st_size)
    os.truncate("file", 0)
    see("blocks of nothing", os.stat("file").st_blocks)
    write("far", b"")
    descriptor = os.open("far", os.O_RDWR)
    os.pwrite(descriptor, b"far away", 5 << 30)
    see("past four GiB", os.pread(descriptor, 100, (5 << 30) + 4))
    os.close(descriptor)


def extents(descriptor):
    """The data ranges of a file, as lseek returns them."""
    found, offset, size = [], 0, os.fstat(descriptor).st_size
    while offset < size:
        start = outcome(os.lseek, descriptor, offset, os.SEEK_DATA)
        if not isinstance(start, int):
            break
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append((start // BLOCK, offset // BLOCK))
    return found


@case
def sparse_file():
    descriptor = os.open("holes", os.O_RDWR | os.O_CREAT)
    for block in (0, 5, 64):
        os.pwrite(descriptor, b"data" * (BLOCK // 4), block * BLOCK)
    os.ftruncate(descriptor, 100 * BLOCK)
    os.fsync(descriptor)
    reader = os.open("holes", os.O_RDONLY)
    see("data at", extents(reader))
    see("hole from 5", os.lseek(reader, 5 * BLOCK, os.SEEK_HOLE) // BLOCK)
    attempt("data past the last", os.lseek, reader, 65 * BLOCK, os.SEEK_DATA)
    os.close(reader)
    see("data at for a writer", extents(descriptor))
    attempt("data past the end", os.lseek, descriptor, 100 * BLOCK, os.SEEK_DATA)
    attempt("hole past the end", os.lseek, descriptor, 101 * BLOCK, os.SEEK_HOLE)
    see("size and blocks", (os.fstat(descriptor).st_size, os.fstat(descriptor).st_blocks))
    see("a hole reads as zeros", os.pread(descriptor, BLOCK, 2 * BLOCK) == bytes(BLOCK))
    os.close(descriptor)


@case
def sparse_copies():
    """Data that a program has stored or written is in each copy, even if its kernel still caches it."""
    size = 64 * BLOCK
    written = os.open("written", os.O_RDWR | os.O_CREAT)
    os.ftruncate(written, size)
    os.pwrite(written, b"written", 40 * BLOCK)
    see("data that was written is found", os.lseek(written, 0, os.SEEK_DATA) <= 40 * BLOCK)
    subprocess.run(["cp", "--sparse=always", "written", "written-copy"], check=True)
    see("copy of what was written", read("written-copy") == bytes(40 * BLOCK) + b"written" + bytes(size - 40 * BLOCK - 7))
    os.close(written)
    descriptor = os.open("mapped", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, size)
    earlier = os.open("mapped", os.O_RDONLY)
    # The guest's kernel learns here which pages are holes.
    see("no data yet", os.pread(earlier, size, 0) == bytes(size))
    window = outcome(mmap.mmap, descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    if isinstance(window, str):
        see("mapping", window)
        os.close(descriptor)
        os.close(earlier)
        return
    window[20 * BLOCK:20 * BLOCK + 6] = b"stored"
    expected = bytes(20 * BLOCK) + b"stored" + bytes(size - 20 * BLOCK - 6)
    found = outcome(os.lseek, descriptor, 0, os.SEEK_DATA)
    see("stored data is found", isinstance(found, int) and found <= 20 * BLOCK)
    for name, command in (("cp", ["cp", "--sparse=always", "mapped", "cp"]),
                          ("tar", ["sh", "-c", "tar -cSf - mapped | tar -xOf - > tar"])):
        # A store that the kernel has not sent yet, because no open followed it.
        window[50 * BLOCK:50 * BLOCK + 4] = b"more"
        expected = expected[:50 * BLOCK] + b"more" + expected[50 * BLOCK + 4:]
        subprocess.run(command, check=True)
        see(name, read(name) == expected)
    window.close()
    os.close(descriptor)
    os.close(earlier)


def letters(path):
    """Returns the first byte of each block."""
    return "".join(chr(byte) if byte else "0" for byte in read(path)[::BLOCK])


@case
def fallocate_ranges():
    descriptor = os.open("file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"".join(bytes([65 + block]) * BLOCK for block in range(16)))
    attempt("punch", fallocate, descriptor, PUNCH_HOLE | KEEP_SIZE, 2 * BLOCK, 3 * BLOCK)
    see("punched", letters("file"))
    os.fsync(descriptor)
    reader = os.open("file", os.O_RDONLY)
    see("data at", extents(reader))
    os.close(reader)
    see("blocks", os.fstat(descriptor).st_blocks)
    attempt("punch without keep-size", fallocate, descriptor, PUNCH_HOLE, 0, BLOCK)
    attempt("zero", fallocate, descriptor, ZERO, 7 * BLOCK, BLOCK)
    attempt("zero past the end", fallocate, descriptor, ZERO | KEEP_SIZE, 15 * BLOCK, 4 * BLOCK)
    see("zeroed", letters("file"))
    attempt("grow", fallocate, descriptor, 0, 0, 30 * BLOCK)
    see("grown", os.fstat(descriptor).st_size // BLOCK)
    attempt("keep size", fallocate, descriptor, KEEP_SIZE, 0, 40 * BLOCK)
    see("kept", os.fstat(descriptor).st_size // BLOCK)
    attempt("no length", fallocate, descriptor, 0, 0, 0)
    os.close(descriptor)
    reader = os.open("file", os.O_RDONLY)
    attempt("by a reader", fallocate, reader, 0, 0, BLOCK)
    os.close(reader)


@case
def fallocate_shifts():
    descriptor = os.open("file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"".join(bytes([65 + block]) * BLOCK for block in range(8)))
    attempt("collapse", fallocate, descriptor, COLLAPSE, BLOCK, 4 * BLOCK)
    see("collapsed", letters("file"))
    attempt("insert", fallocate, descriptor, INSERT, BLOCK, 2 * BLOCK)
    see("inserted", letters("file"))
    os.close(descriptor)


@case
def copy_file_range():
    write("source", b"0123456789" * 1000)
    write("target", b"-" * 100)
    source, target = os.open("source", os.O_RDONLY), os.open("target", os.O_RDWR)
    see("copied", os.copy_file_range(source, target, 5000, 5, 50))
    see("size", os.fstat(target).st_size)
    see("around the seam", os.pread(target, 12, 46))
    see("past the end of the source", os.copy_file_range(source, target, 100, 9990, 0))
    see("nothing left", os.copy_file_range(source, target, 100, 10000, 0))
    see("by position", os.copy_file_range(source, target, 4))
    see("positions", (os.lseek(source, 0, os.SEEK_CUR), os.lseek(target, 0, os.SEEK_CUR)))
    attempt("into a reader", os.copy_file_range, target, source, 4)
    attempt("onto itself", os.copy_file_range, target, target, 50, 0, 20)
    os.close(source)
    os.close(target)
    see("start", read("target")[:20])


@case
def unlink_while_open():
    descriptor = os.open("file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"still here")
    os.unlink("file")
    attempt("by name", os.stat, "file")
    see("links", os.fstat(descriptor).st_nlink)
    os.pwrite(descriptor, b"S", 0)
    see("content", os.pread(descriptor, 100, 0))
    os.ftruncate(descriptor, 5)
    os.fchmod(descriptor, 0o600)
    os.fsync(descriptor)
    see("changed", (os.fstat(descriptor).st_size, oct(os.fstat(descriptor).st_mode)))
    write("file", b"another")
    see("both", (read("file"), os.pread(descriptor, 100, 0)))
    os.close(descriptor)
    os.mkdir("folder")
    folder = os.open("folder", os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir("folder")
    attempt("create in a removed directory", os.open, "new", os.O_CREAT | os.O_RDWR, dir_fd=folder)
    see("list a removed directory", os.listdir(folder))
    os.close(folder)
    os.mkdir("folder")
    see("remade", sorted(os.listdir(".")))


@case
def unnamed_file_gets_a_name():
    descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(descriptor, b"from nowhere")
    see("links", os.fstat(descriptor).st_nlink)
    see("names", os.listdir("."))
    attempt("linked", linkat, AT_FDCWD, f"/proc/self/fd/{descriptor}", "named", AT_SYMLINK_FOLLOW)
    see("content", read("named"))
    see("mode", mode_of("named"))
    see("links with a name", os.stat("named").st_nlink)
    attempt("linked onto a name", linkat, descriptor, "", "named", AT_EMPTY_PATH)
    os.write(descriptor, b", still writing")
    os.close(descriptor)
    see("content at the end", read("named"))
    descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    attempt("an exclusive one", linkat, AT_FDCWD, f"/proc/self/fd/{descriptor}", "never", AT_SYMLINK_FOLLOW)
    os.close(descriptor)
    attempt("read-only", os.open, ".", os.O_TMPFILE | os.O_RDONLY)
    see("names at the end", os.listdir("."))


@case
def mmap_shared():
    write("file", b"a" * 3 * BLOCK)
    descriptor = os.open("file", os.O_RDWR)
    window = outcome(mmap.mmap, descriptor, 3 * BLOCK, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    if isinstance(window, str):
        see("mapping", window)
        os.close(descriptor)
        return
    window[BLOCK:BLOCK + 6] = b"MAPPED"
    see("read sees the mapping", os.pread(descriptor, 8, BLOCK - 1))
    os.pwrite(descriptor, b"WRITTEN", 10)
    see("the mapping sees the write", window[9:18])
    child = os.fork()
    if child == 0:
        window[2 * BLOCK:2 * BLOCK + 5] = b"CHILD"
        os._exit(0)
    os.waitpid(child, 0)
    see("another process", window[2 * BLOCK:2 * BLOCK + 6])
    window.flush()
    os.fsync(descriptor)
    os.close(descriptor)
    window[0:1] = b"Z"
    window.close()
    content = read("file")
    see("content", [content[at:at + 8] for at in (0, 8, BLOCK, 2 * BLOCK)])
    write("short", b"end")
    descriptor = os.open("short", os.O_RDWR)
    window = mmap.mmap(descriptor, 0, mmap.MAP_SHARED)
    window[2:3] = b"D"
    window.close()
    os.close(descriptor)
    see("a part of a page", read("short"))


@case
def mmap_private():
    write("file", b"p" * BLOCK + b"q" * 100)
    descriptor = os.open("file", os.O_RDONLY)
    window = mmap.mmap(descriptor, BLOCK + 100, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    see("mapped", window[BLOCK - 2:BLOCK + 2])
    window[0:5] = b"MINE!"
    see("own copy", window[0:6])
    see("the file", read("file")[0:6])
    os.close(descriptor)
    window.close()
    descriptor = os.open("file", os.O_RDWR)
    child = os.fork()
    if child == 0:
        window = mmap.mmap(descriptor, BLOCK + 100, mmap.MAP_PRIVATE, mmap.PROT_READ)
        os.ftruncate(descriptor, 10)
        os._exit(window[BLOCK])
    see("a page cut off is signal", os.waitpid(child, 0)[1] & 0x7F)
    os.close(descriptor)


@case
def direct_io():
    descriptor = os.open("file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4 * BLOCK)
    buffer[:] = bytes(range(256)) * (4 * BLOCK // 256)
    see("written", os.writev(descriptor, [buffer]))
    back = mmap.mmap(-1, 4 * BLOCK)
    see("read", os.preadv(descriptor, [back], 0))
    see("equal", back[:] == buffer[:])
    os.close(descriptor)
    see("buffered", read("file") == buffer[:])
    descriptor = os.open("file", os.O_WRONLY | os.O_APPEND | os.O_DIRECT)
    os.writev(descriptor, [buffer])
    os.close(descriptor)
    see("appended", os.stat("file").st_size // BLOCK)


@case
def syncing():
    descriptor = os.open("file", os.O_RDWR | os.O_CREAT | os.O_DSYNC)
    os.write(descriptor, b"dsync")
    attempt("fsync", os.fsync, descriptor)
    attempt("fdatasync", os.fdatasync, descriptor)
    attempt("syncfs", syncfs, descriptor)
    os.close(descriptor)
    descriptor = os.open("file", os.O_RDWR | os.O_SYNC)
    os.pwrite(descriptor, b"DSYNC", 0)
    see("RWF_DSYNC", os.pwritev(descriptor, [b"x"], 5, os.RWF_DSYNC))
    os.close(descriptor)
    folder = os.open(".", os.O_RDONLY)
    attempt("fsync of a directory", os.fsync, folder)
    os.close(folder)
    see("content", read("file"))


@case
def birth():
    before = int(time.time()) - 5
    write("file", b"x")
    os.utime("file", (1000, 1000))
    told = birth_time("file")
    see("told", told is not None and before <= told <= time.time() + 5)
    see("of a directory", birth_time(".") is not None)


@case
def executing():
    write("script", b"#!/bin/sh\necho script $1\n", 0o755)
    see("script", subprocess.run(["./script", "runs"], stdout=subprocess.PIPE, check=False).stdout)
    write("binary", read("/bin/echo"), 0o755)
    see("binary", subprocess.run(["./binary", "runs"], stdout=subprocess.PIPE, check=False).stdout)
    write("plain", b"#!/bin/sh\n", 0o644)
    attempt("not executable", os.execv, "./plain", ["plain"])


@case
def locks_between_processes():
    write("file", b"lock me")
    one, two = os.open("file", os.O_RDWR), os.open("file", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    attempt("second flock", fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(one, fcntl.LOCK_UN)
    attempt("free flock", fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(one, fcntl.LOCK_EX, 4, 0)
    child = os.fork()
    if child == 0:
        attempt("locked range", fcntl.lockf, two, fcntl.LOCK_EX | fcntl.LOCK_NB, 4, 2)
        attempt("free range", fcntl.lockf, two, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 4)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(one)
    os.close(two)
