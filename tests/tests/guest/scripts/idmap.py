"""Tests an idmapped mount of a directory of PLACE: `idmap.py DIRECTORY PLACE`.

Ids 1000 and 0 of the mount are 2000 and 3000 of the file system. Other ids are not mapped.
"""

import fcntl
import os
import stat
import subprocess
import sys

from probe import as_user, attempt, leave_chroot, outcome, read, see, write

MAP = "X-mount.idmap=b:2000:1000:1 b:3000:0:1"


def ids(path):
    status = os.lstat(path)
    return f"{status.st_mode:o} {status.st_uid}:{status.st_gid}"


def make_all(top):
    makers = {
        "file": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)),
        "folder": os.mkdir,
        "link": lambda path: os.symlink("file", path),
        "fifo": os.mkfifo,
        "node": lambda path: os.mknod(path, stat.S_IFREG | 0o600),
    }
    for name, make in makers.items():
        see(f"make {name}", outcome(make, f"{top}/{name}"))
    descriptor = outcome(os.open, top, os.O_TMPFILE | os.O_RDWR, 0o600)
    if isinstance(descriptor, int):
        status = os.fstat(descriptor)
        see("nameless", f"{status.st_uid}:{status.st_gid}")
        os.close(descriptor)
    else:
        see("nameless", descriptor)


def use(top):
    """Does operations without a new owner."""
    write(f"{top}/file", b"content")
    see("read", read(f"{top}/file"))
    attempt("chmod", os.chmod, f"{top}/file", 0o640)
    attempt("utime", os.utime, f"{top}/file", (1, 1))
    attempt("truncate", os.truncate, f"{top}/file", 3)
    attempt("rename", os.rename, f"{top}/file", f"{top}/renamed")
    attempt("hard link", os.link, f"{top}/renamed", f"{top}/file")
    attempt("unlink", os.unlink, f"{top}/renamed")
    attempt("listed", os.listdir, f"{top}/folder")
    see("access", [os.access(f"{top}/{name}", bits) for name in ("file", "others") for bits in (4, 2, 1)])
    attempt("another's file", os.open, f"{top}/others", os.O_WRONLY)
    with open(f"{top}/file", "r+b") as file:
        attempt("record lock", fcntl.lockf, file, fcntl.LOCK_EX)
        attempt("flock", fcntl.flock, file, fcntl.LOCK_EX)


def main(folder, place):
    leave_chroot()
    os.umask(0o022)
    os.chdir(folder)
    for name in ("tree", "mapped"):
        os.mkdir(name)
    os.chown("tree", 2000, 2000)
    for name, owner in (("others", 5000), ("roots", 3000)):
        write(f"tree/{name}", name.encode(), 0o600)
        os.chown(f"tree/{name}", owner, owner)
    print(f"@ {place} idmap", flush=True)
    mounted = subprocess.run(["mount", "--bind", "-o", MAP, "tree", "mapped"],
                             capture_output=True, text=True, check=False)
    see("mount", f"{mounted.returncode} {mounted.stderr.strip()}")
    if mounted.returncode:
        print("@ end", flush=True)
        return
    see("owners", [ids(f"mapped/{name}") for name in ("", "others", "roots")])
    as_user(1000, 1000, [], lambda: make_all("mapped"))
    see("in the mount", [ids(f"mapped/{name}") for name in sorted(os.listdir("mapped"))])
    see("in the file system", [ids(f"tree/{name}") for name in sorted(os.listdir("tree"))])
    as_user(1000, 1000, [], lambda: use("mapped"))
    as_user(4000, 4000, [], lambda: attempt("make without a place", os.mkdir, "mapped/nowhere"))
    attempt("root makes", os.mkdir, "mapped/by-root")
    attempt("root gives away", os.chown, "mapped/roots", 1000, 1000)
    attempt("root gives to no place", os.chown, "mapped/file", 4000, 4000)
    attempt("root takes a privileged file", os.chmod, "mapped/file", 0o6755)
    as_user(1000, 1000, [], lambda: os.truncate("mapped/file", 1))
    see("afterwards", [ids(f"tree/{name}") for name in sorted(os.listdir("tree"))])
    # The mount without a map, after the other one was mounted.
    as_user(2000, 2000, [], lambda: attempt("the owner makes", os.mkdir, "tree/by-owner"))
    see("and owns", ids("tree/by-owner"))
    print("@ end", flush=True)


main(*sys.argv[1:])
