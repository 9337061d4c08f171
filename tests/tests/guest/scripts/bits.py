"""Prints which operations of which callers keep set-user-id and set-group-id.

Usage: `bits.py DIRECTORY PLACE`. Every file belongs to user 1000 and group 1000, or to root, and all
users may write it. Each caller does each operation on one file of each mode. A line shows the mode
afterwards.
"""

import ctypes
import mmap
import os
import sys

from probe import KEEP_SIZE, PUNCH_HOLE, as_user, fallocate, libc, outcome, see

PAGE = 4096
CAP_FSETID = 4
OWNED = {"users": (1000, 1000), "roots": (0, 0)}
# The second has set-group-id without the execute bit of the group.
MODES = (0o6777, 0o6767)
VERSION_3 = 0x20080522


def capabilities(change):
    """Replaces the effective set of this process by the result of `change` for its first word."""
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc("capget", header, sets)
    sets[0] = change(sets[0])
    libc("capset", header, sets)


def written(path):
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, b"x")
    os.close(descriptor)


def direct(path):
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.pwritev(descriptor, [mmap.mmap(-1, PAGE)], 0)
    os.close(descriptor)


def allocated(mode):
    def allocate(path):
        descriptor = os.open(path, os.O_RDWR)
        fallocate(descriptor, mode, 0, PAGE)
        os.close(descriptor)
    return allocate


def copied(path):
    source, target = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
    os.copy_file_range(source, target, 16, 0, PAGE)
    os.close(source)
    os.close(target)


OPERATIONS = {
    "write": written,
    "direct write": direct,
    "truncate": lambda path: os.truncate(path, 1),
    "O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "fallocate": allocated(0),
    "punch": allocated(KEEP_SIZE | PUNCH_HOLE),
    "copy_file_range": copied,
    "chown to same": lambda path: os.chown(path, -1, -1),
    "chgrp": lambda path: os.chown(path, -1, 2000),
    "chown": lambda path: os.chown(path, 1000, -1),
}


def without_fsetid():
    capabilities(lambda effective: effective & ~(1 << CAP_FSETID))


def user_with_fsetid():
    """Changes to user 1001 and keeps this one capability."""
    libc("prctl", 8, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(1001, 1001, 1001)
    os.setresuid(1001, 1001, 1001)
    capabilities(lambda _: 1 << CAP_FSETID)


# Name, user, group, other groups, and a function that completes the change to the caller.
CALLERS = (
    ("root", 0, 0, [], lambda: None),
    ("root-without-fsetid", 0, 0, [], without_fsetid),
    ("owner", 1000, 1000, [2000], lambda: None),
    ("owner-by-groups", 1000, 3000, [1000, 2000], lambda: None),
    ("owner-outside-group", 1000, 3000, [2000], lambda: None),
    ("other", 1001, 1001, [], lambda: None),
    ("user-with-fsetid", 0, 0, [], user_with_fsetid),
)


def files():
    return [(owner, mode, operation) for owner in OWNED for operation in OPERATIONS for mode in MODES]


def name_of(owner, mode, operation):
    return f"{owner}-{mode:o}-{operation.replace(' ', '-')}"


def prepare():
    for owner, mode, operation in files():
        name = name_of(owner, mode, operation)
        with open(name, "wb") as file:
            file.write(b"content" * 100)
        os.chown(name, *OWNED[owner])
        os.chmod(name, mode)


def main(folder, place):
    for caller, uid, gid, groups, become in CALLERS:
        os.makedirs(f"{folder}/{caller}")
        os.chdir(f"{folder}/{caller}")
        os.chmod(".", 0o777)
        prepare()
        print(f"@ {place} {caller}", flush=True)

        def act():
            become()
            for owner, mode, operation in files():
                name = name_of(owner, mode, operation)
                ended = outcome(OPERATIONS[operation], name)
                see(f"{owner} {operation} {mode:o}", f"{os.stat(name).st_mode & 0o7777:o} {ended}")

        as_user(uid, gid, groups, act)
        print("@ end", flush=True)


main(*sys.argv[1:])
