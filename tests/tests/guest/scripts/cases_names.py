"""Names, directories, links, special files."""

import os
import socket
import stat
import threading

from probe import (EXCHANGE, NOREPLACE, WHITEOUT, as_user, attempt, case, mode_of, outcome, read, renameat2, see, write)


@case
def rename_over():
    write("old", b"old")
    write("new", b"new")
    held = os.open("new", os.O_RDONLY)
    os.rename("old", "new")
    see("content", read("new"))
    attempt("the old name", os.stat, "old")
    see("the replaced file", os.read(held, 100))
    see("its links", os.fstat(held).st_nlink)
    os.close(held)
    os.mkdir("empty")
    os.makedirs("full/below")
    attempt("file over directory", os.rename, "new", "empty")
    attempt("directory over file", os.rename, "empty", "new")
    attempt("over a full directory", os.rename, "empty", "full")
    attempt("into itself", os.rename, "full", "full/below/x")
    attempt("over an empty directory", os.rename, "full", "empty")
    see("moved with what was below", os.listdir("empty"))
    attempt("what is not there", os.rename, "absent", "x")
    os.rename("new", "empty/below/moved")
    see("moved across", read("empty/below/moved"))
    os.link("empty/below/moved", "twin")
    attempt("onto its own link", os.rename, "twin", "empty/below/moved")
    see("both stay", (os.path.exists("twin"), os.path.exists("empty/below/moved")))
    os.chdir("empty/below")
    os.rename("../../empty", "../../renamed")
    see("working directory moved along", read("moved"))


@case
def rename_with_flags():
    write("a", b"a")
    write("b", b"b")
    os.mkdir("folder")
    write("folder/inside", b"inside")
    attempt("no replace, taken", renameat2, "a", "b", NOREPLACE)
    attempt("no replace, free", renameat2, "a", "c", NOREPLACE)
    attempt("exchange files", renameat2, "b", "c", EXCHANGE)
    see("exchanged", (read("b"), read("c")))
    attempt("exchange file and directory", renameat2, "b", "folder", EXCHANGE)
    see("directory and file", (read("folder"), os.listdir("b")))
    attempt("exchange with nothing", renameat2, "c", "absent", EXCHANGE)
    attempt("both flags", renameat2, "c", "folder", EXCHANGE | NOREPLACE)
    attempt("whiteout", renameat2, "c", "d", WHITEOUT)
    status = os.lstat("c")
    see("whiteout left", (stat.S_ISCHR(status.st_mode), status.st_rdev))
    see("renamed", read("d"))


@case
def hard_links():
    write("one", b"linked")
    os.link("one", "two")
    see("links", os.stat("two").st_nlink)
    see("same file", os.path.samefile("one", "two"))
    os.chmod("two", 0o600)
    see("mode through the other name", mode_of("one"))
    os.truncate("one", 3)
    see("content through the other name", read("two"))
    os.unlink("one")
    see("links left", os.stat("two").st_nlink)
    attempt("onto a name", os.link, "two", "two")
    os.mkdir("folder")
    attempt("of a directory", os.link, "folder", "again")
    os.symlink("two", "pointer")
    os.link("pointer", "pointers-twin", follow_symlinks=False)
    see("of a symbolic link", os.readlink("pointers-twin"))
    see("content", read("two"))


@case
def symbolic_links():
    write("file", b"target")
    os.symlink("file", "link")
    see("target", os.readlink("link"))
    see("through it", read("link"))
    see("size is the target's length", os.lstat("link").st_size)
    os.symlink("nowhere", "dangling")
    attempt("dangling", os.open, "dangling", os.O_RDONLY)
    write("dangling", b"made through the link")
    see("made", read("nowhere"))
    attempt("create exclusively over it", os.open, "dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.symlink("loop", "loop")
    attempt("loop", os.stat, "loop")
    attempt("not followed", os.open, "link", os.O_RDONLY | os.O_NOFOLLOW)
    os.symlink("x" * 4000, "long")
    see("long target", len(os.readlink("long")))
    attempt("too long", os.symlink, "y" * 4096, "longer")
    os.symlink(b"\xff\xfe", "bytes")
    see("bytes", os.readlink(b"bytes"))
    attempt("empty", os.symlink, "", "none")
    os.symlink("/proc/self/root/etc/passwd", "absolute")
    see("absolute, resolved in the guest", read("absolute") == read("/etc/passwd"))
    os.lchown("link", 1234, 2345)
    see("owner of the link", (os.lstat("link").st_uid, os.stat("link").st_uid))
    attempt("read link of a file", os.readlink, "file")


@case
def special_files():
    os.mkfifo("fifo", 0o640)
    see("fifo", mode_of("fifo"))
    writer = threading.Thread(target=write_to, args=("fifo",))
    writer.start()
    with open("fifo", "rb") as fifo:
        see("through the fifo", fifo.read())
    writer.join()
    os.mknod("regular", stat.S_IFREG | 0o600)
    see("regular", mode_of("regular"))
    attempt("again", os.mknod, "regular", stat.S_IFREG | 0o600)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    attempt("connect", client.connect, "socket")
    see("socket", mode_of("socket"))
    client.close()
    listener.close()


@case
def device_nodes():
    attempt("character device", os.mknod, "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    see("device", (mode_of("null"), os.lstat("null").st_rdev))
    device = os.open("null", os.O_RDWR)
    see("written to null", os.write(device, b"gone"))
    see("read from null", os.read(device, 10))
    os.close(device)
    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(7, 300))
    see("block device", (mode_of("disk"), os.lstat("disk").st_rdev))
    os.chmod(".", 0o777)
    as_user(1000, 1000, [], lambda: attempt("device by a user", os.mknod, "never", stat.S_IFCHR, os.makedev(1, 3)))


def write_to(path):
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, b"by fifo")
    os.close(descriptor)


@case
def directories():
    os.mkdir("a", 0o777)
    see("mode", mode_of("a"))
    attempt("again", os.mkdir, "a")
    os.mkdir("a/b")
    see("links", os.stat("a").st_nlink)
    attempt("remove a full one", os.rmdir, "a")
    attempt("unlink a directory", os.unlink, "a")
    write("file", b"")
    attempt("rmdir of a file", os.rmdir, "file")
    attempt("rmdir of .", os.rmdir, "a/.")
    attempt("rmdir of ..", os.rmdir, "a/b/..")
    attempt("below nothing", os.mkdir, "x/y")
    os.rmdir("a/b")
    see("links after", os.stat("a").st_nlink)
    for number in range(300):
        write(f"a/{number}", b"")
    see("listed", sorted(os.listdir("a"), key=int) == [str(number) for number in range(300)])
    kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in os.scandir(".")}
    see("kinds", sorted(kinds.items()))
    descriptor = os.open("a", os.O_RDONLY)
    first, second = os.listdir(descriptor), os.listdir(descriptor)
    see("read twice by one descriptor", sorted(first) == sorted(second))
    os.close(descriptor)
    see("dot and dot-dot are the right ones",
        (os.path.samefile("a/..", "."), os.path.samefile("a/.", "a")))


@case
def names():
    kept = [b"n" * 255, b"\xff\xfe\x80", b"new\nline", b"-rf", b"sp ace\ttab", b"back\\slash", b"\x01\x7f", b"...",
            "\u00e9".encode(), "e\u0301".encode(), b"CASE", b"case", b"*?[]{}$`'\""]
    for name in kept:
        write(name, name[:50])
    see("listed", sorted(os.listdir(b".")) == sorted(kept))
    see("contents", all(read(name) == name[:50] for name in kept))
    attempt("256 bytes", os.open, b"n" * 256, os.O_CREAT | os.O_RDWR)
    attempt("256 bytes looked up", os.stat, b"n" * 256)
    attempt("mkdir of 256 bytes", os.mkdir, b"n" * 256)
    attempt("empty", os.open, b"", os.O_CREAT | os.O_RDWR)
    os.rename(b"n" * 255, b"m" * 255)
    os.link(b"m" * 255, b"l" * 255)
    os.symlink(b"l" * 255, b"s" * 255)
    see("renamed, linked and pointed to", read(b"s" * 255))
    every = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    write(every, b"every byte")
    see("every byte in one name", every in os.listdir(b".") and read(every))
    os.mkdir(b"\xc3\x28")
    write(b"\xc3\x28/inside", b"x")
    see("in a directory with a bad name", os.listdir(b"\xc3\x28"))


@case
def deep_path():
    for level in range(100):
        os.mkdir(f"level-{level:03}")
        os.chdir(f"level-{level:03}")
    write("bottom", b"a hundred levels down")
    os.symlink("../" * 3 + "level-097/level-098", "up")
    see("relative", read("up/../level-098/level-099/bottom"))
    for _ in range(100):
        os.chdir("..")
    path = "/".join(f"level-{level:03}" for level in range(100))
    see("from the top", read(path + "/bottom"))
    os.rename("level-000/level-001", "moved")
    see("after a rename above", read("moved/" + path.split("/", 2)[2] + "/bottom"))
    os.rename("moved", "level-000/level-001")
    parent = os.open(path, os.O_RDONLY)
    see("dot-dot from below", os.path.samestat(os.stat("..", dir_fd=parent), os.stat(os.path.dirname(path))))
    os.close(parent)
    attempt("past PATH_MAX", os.stat, "./" * 2100 + "level-000")


@case
def many_entries():
    count = 20000
    for number in range(count):
        os.close(os.open(f"entry-{number:05}", os.O_CREAT | os.O_WRONLY))
    see("all there", sorted(os.listdir(".")) == [f"entry-{number:05}" for number in range(count)])
    removed = {f"entry-{number:05}" for number in range(0, count, 20)}
    doomed, seen, added, renamed = sorted(removed), [], 0, 0
    with os.scandir(".") as entries:
        for position, entry in enumerate(entries):
            seen.append(entry.name)
            if position % 20 == 0 and doomed:
                os.unlink(doomed.pop())
                write(f"added-{added:05}", b"")
                added += 1
                if added % 50 == 0:
                    os.rename(f"added-{added - 1:05}", f"renamed-{renamed:05}")
                    renamed += 1
    for name in doomed:
        os.unlink(name)
    steady = {f"entry-{number:05}" for number in range(count)} - removed
    seen_steady = [name for name in seen if name in steady]
    see("entries that stayed, seen", len(set(seen_steady)))
    see("seen twice", len(seen_steady) - len(set(seen_steady)))
    see("never seen", len(steady - set(seen)))
    strange = [name for name in seen if not name.startswith(("entry-", "added-", "renamed-"))]
    see("strange", strange[:3])
    final = os.listdir(".")
    see("at the end", (len(final) == len(steady) + added, len(set(final)) == len(final)))
    see("removed is gone", outcome(os.stat, "entry-00000"))
