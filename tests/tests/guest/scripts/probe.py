"""Helpers of the cases: registration, observation, system calls that Python does not wrap.

A case is a function that works in its own empty directory (the current one) and calls `see` for everything it
observes. What it sees must not depend on where it runs: no inode numbers, no clock, no addresses.
"""

import ctypes
import errno
import os
import signal
import stat
import sys
import time
import traceback

LIBC = ctypes.CDLL("libc.so.6", use_errno=True)
LIBC.syscall.restype = ctypes.c_long
# On x86-64.
RENAMEAT2 = 316
# Up to this size, in bytes, the manifest has a file's checksum; the host's side has the same limit.
CONTENT_LEN_MAX = 1 << 20
AT_FDCWD, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x400, 0x1000
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
MS_MOVE = 0x2000
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32

CASES = {}


def case(function):
    """Registers a case under its function's name."""
    CASES[function.__name__] = function
    return function


def see(what, value="ok"):
    """Prints one observation as one line of ASCII."""
    print(f"{what}: {ascii(value) if not isinstance(value, str) else value}", flush=True)


def outcome(function, *arguments, **named):
    """The name of the errno that a call failed with, or its result, or "ok"."""
    try:
        result = function(*arguments, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "ok" if result is None else result


def attempt(what, function, *arguments, **named):
    """Prints the result of a call, and closes a descriptor that it returned."""
    result = outcome(function, *arguments, **named)
    if function is os.open and isinstance(result, int):
        os.close(result)
        result = "ok"
    see(what, result)


def libc(name, *arguments):
    """Calls a function of the C library that returns -1 with errno."""
    function = getattr(LIBC, name)
    result = function(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return None if result == 0 else result


def renameat2(old, new, flags):
    return libc("syscall", RENAMEAT2, AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def fallocate(descriptor, mode, offset, length):
    return libc("fallocate", descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def linkat(descriptor, old, new, flags):
    return libc("linkat", descriptor, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def syncfs(descriptor):
    return libc("syncfs", descriptor)


def birth_time(path):
    """Seconds since 1970, or None if the file system lacks it; struct statx of linux/stat.h."""
    buffer = ctypes.create_string_buffer(256)
    libc("statx", AT_FDCWD, os.fsencode(path), 0, 0x800, buffer)
    told = int.from_bytes(buffer.raw[0:4], "little") & 0x800
    return int.from_bytes(buffer.raw[80:88], "little", signed=True) if told else None


def write(path, content, mode=0o644):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        while content:
            content = content[os.write(descriptor, content):]
    finally:
        os.close(descriptor)


def read(path):
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def mode_of(path):
    return oct(os.lstat(path).st_mode)


def owner_of(path):
    status = os.lstat(path)
    return f"{status.st_uid}:{status.st_gid}"


def as_user(uid, gid, groups, action):
    """Runs `action` in a child with these ids; its observations are printed in order. The umask is kept."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            action()
            code = 0
        except BaseException:
            print("raised", traceback.format_exc(), flush=True)
        finally:
            os._exit(code)
    ended = os.waitpid(child, 0)[1]
    if ended:
        see("child ended", ended)


def leave_chroot():
    """Makes the userland the root of a mount namespace: no process in a chroot may make a user namespace."""
    os.unshare(os.CLONE_NEWNS)
    # Enters the root directory of the namespace, which is that of the first process.
    os.setns(os.open("/proc/self/ns/mnt", os.O_RDONLY), os.CLONE_NEWNS)
    os.chdir("/userland")
    libc("mount", b".", b"/", None, MS_MOVE, None)
    os.chroot(".")
    os.chdir("/")


def too_long(*_):
    raise TimeoutError("the case took longer than its limit")


def run(place, top, names):
    """Runs cases below `top`, each in a directory of its own name, between marks that the host's side looks for."""
    signal.signal(signal.SIGALRM, too_long)
    for name in names:
        folder = os.path.join(top, name)
        print(f"@ {place} {name}", flush=True)
        began = time.monotonic()
        try:
            os.umask(0o022)
            os.mkdir(folder)
            os.chdir(folder)
            signal.alarm(40)
            CASES[name]()
        except BaseException:
            print("raised", traceback.format_exc(), flush=True)
        finally:
            signal.alarm(0)
            os.chdir("/")
        print("@ end", flush=True)
        print(f"{place} {name} took {time.monotonic() - began:.1f} s", flush=True)


def manifest(top):
    """One line for every object below `top`, in the same form as the host's side."""
    import zlib
    for folder, names, files in os.walk(os.fsencode(top)):
        names.sort()
        relative = os.path.normpath(os.path.join(b"below", os.path.relpath(folder, os.fsencode(top))))
        if os.path.basename(folder) == b"many_entries":
            del names[:]
            continue
        for name in sorted(names + files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content = ""
            if kind == stat.S_IFREG and status.st_size <= CONTENT_LEN_MAX:
                content = format(zlib.crc32(read(path)), "08x")
            elif kind == stat.S_IFLNK:
                content = os.readlink(path).hex()
            size = status.st_size if kind == stat.S_IFREG else 0
            links = status.st_nlink if kind != stat.S_IFDIR else 0
            print(
                os.path.join(relative, name).hex(), oct(status.st_mode)[2:], status.st_uid, status.st_gid, links,
                size, status.st_mtime_ns, status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0, content,
                flush=True,
            )
