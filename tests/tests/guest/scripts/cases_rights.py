"""Owners, modes, times, extended attributes, access control lists."""

import os
import stat
import struct
import subprocess
import time

from probe import as_user, attempt, case, libc, mode_of, outcome, owner_of, read, see, write


@case
def modes_and_owners():
    os.chmod(".", 0o777)
    write("roots", b"root's")
    for mode in (0o000, 0o1777, 0o4755, 0o6711, 0o2070, 0o644):
        os.chmod("roots", mode)
        see(f"chmod {mode:o}", mode_of("roots"))

    def user():
        attempt("chmod of another's", os.chmod, "roots", 0o666)
        attempt("chown of another's", os.chown, "roots", 1000, 1000)
        write("users", b"mine")
        see("made as", owner_of("users"))
        os.mkdir("users-folder")
        os.symlink("users", "users-link")
        os.mkfifo("users-fifo")
        see("all kinds", [owner_of(name) for name in ("users-folder", "users-link", "users-fifo")])
        attempt("chmod of one's own", os.chmod, "users", 0o640)
        attempt("giving away", os.chown, "users", 1001, -1)
        attempt("to one's own group", os.chown, "users", -1, 2000)
        attempt("to a foreign group", os.chown, "users", -1, 3000)
        os.chmod("users", 0o600)
        attempt("write into another's", os.open, "roots", os.O_WRONLY)
        attempt("read another's", os.open, "roots", os.O_RDONLY)
        os.mkdir("closed", 0o700)

    as_user(1000, 1000, [1000, 2000], user)
    see("after", (owner_of("users"), mode_of("users")))

    def other():
        attempt("read what is closed", os.open, "users", os.O_RDONLY)
        attempt("create in a closed directory", os.open, "closed/x", os.O_CREAT | os.O_WRONLY)
        attempt("list a closed directory", os.listdir, "closed")
        see("access", [os.access("users", bits) for bits in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)])

    as_user(1001, 1001, [], other)
    write("for-group", b"group only")
    os.chown("for-group", 0, 2000)
    os.chmod("for-group", 0o060)
    as_user(1001, 1001, [2000], lambda: see("by supplementary group", read("for-group")))
    as_user(1001, 1001, [], lambda: attempt("without the group", os.open, "for-group", os.O_RDONLY))
    os.chown("roots", 4000000000, 4000000001)
    see("large ids", owner_of("roots"))


@case
def privileges_drop():
    os.chmod(".", 0o777)
    for name, action in {
        "written": lambda path: append_to(path),
        "truncated": lambda path: os.truncate(path, 1),
        "opened to nothing": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    }.items():
        write(name, b"privileged")
        os.chown(name, 1000, 1000)
        os.chmod(name, 0o6777)
        as_user(1001, 1001, [], lambda action=action, name=name: action(name))
        see(f"{name} by another", mode_of(name))
        os.chmod(name, 0o6777)
        action(name)
        see(f"{name} by root", mode_of(name))
    write("given", b"x")
    os.chmod("given", 0o6755)
    os.chown("given", 1000, 1000)
    see("given away", mode_of("given"))
    write("no-group-execute", b"x")
    os.chmod("no-group-execute", 0o2744)
    os.chown("no-group-execute", 1000, 1000)
    see("sgid without execute", mode_of("no-group-execute"))


def append_to(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"!")
    os.close(descriptor)


@case
def setgid_directory():
    os.mkdir("shared")
    os.chown("shared", 0, 2000)
    os.chmod("shared", 0o2777)

    def user():
        write("shared/file", b"x")
        os.mkdir("shared/folder")
        os.symlink("x", "shared/link")
        os.mkfifo("shared/fifo")
        descriptor = os.open("shared/executable", os.O_CREAT | os.O_WRONLY, 0o2775)
        os.close(descriptor)

    as_user(1000, 1000, [], user)
    for name in ("file", "folder", "link", "fifo", "executable"):
        see(name, (owner_of(f"shared/{name}"), mode_of(f"shared/{name}")))
    as_user(1000, 1000, [], lambda: attempt("chmod g+s by a stranger to the group", os.chmod, "shared/file", 0o2755))
    see("g+s was dropped", mode_of("shared/file"))
    as_user(1000, 1000, [2000], lambda: os.mkdir("shared/folder/below"))
    see("inherited further", (owner_of("shared/folder/below"), mode_of("shared/folder/below")))


@case
def sticky_directory():
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    as_user(1000, 1000, [], lambda: write("sticky/file", b"x", 0o666))
    os.mkdir("sticky/roots")

    def other():
        attempt("remove another's", os.unlink, "sticky/file")
        attempt("rename another's", os.rename, "sticky/file", "sticky/mine")
        attempt("remove root's directory", os.rmdir, "sticky/roots")
        write("sticky/own", b"y")
        attempt("rename over another's", os.rename, "sticky/own", "sticky/file")
        attempt("remove one's own", os.unlink, "sticky/own")

    as_user(1001, 1001, [], other)
    as_user(1000, 1000, [], lambda: attempt("the owner removes", os.unlink, "sticky/file"))
    see("left", os.listdir("sticky"))


@case
def umasks():
    for mask in (0o000, 0o027, 0o077, 0o777):
        os.umask(mask)
        os.close(os.open(f"file-{mask:o}", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(f"folder-{mask:o}", 0o777)
        os.mkfifo(f"fifo-{mask:o}", 0o666)
        os.mknod(f"node-{mask:o}", stat.S_IFREG | 0o666)
        see(f"{mask:o}", [mode_of(f"{kind}-{mask:o}") for kind in ("file", "folder", "fifo", "node")])


@case
def times():
    write("file", b"x")
    os.utime("file", ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    see("to the nanosecond", (os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns))
    os.utime("file", ns=(-1_500_000_000, 4_102_444_800_000_000_001))
    see("before 1970, after 2038", (os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns))
    subprocess.run(["touch", "-a", "-d", "@100.25", "file"], check=True)
    see("access time alone", (os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns))
    subprocess.run(["touch", "-m", "-d", "@200.75", "file"], check=True)
    see("modification time alone", (os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns))
    os.symlink("file", "link")
    os.utime("link", ns=(1, 2), follow_symlinks=False)
    see("of a symbolic link", os.lstat("link").st_mtime_ns)
    os.mkdir("folder")
    os.utime("folder", ns=(3_000_000_001, 4_000_000_002))
    see("of a directory", os.stat("folder").st_mtime_ns)
    changed = os.stat("folder").st_ctime_ns
    time.sleep(0.02)
    write("folder/new", b"")
    see("moves when an entry is made", os.stat("folder").st_mtime_ns > 5_000_000_000)
    see("change time moves too", os.stat("folder").st_ctime_ns > changed)
    os.utime("file", ns=(5, 5))
    descriptor = os.open("file", os.O_WRONLY)
    os.write(descriptor, b"later")
    os.close(descriptor)
    see("moves with a write", abs(os.stat("file").st_mtime - time.time()) < 60)
    os.utime("file", ns=(7, 7))
    before = os.stat("file").st_ctime_ns
    time.sleep(0.02)
    os.chmod("file", 0o600)
    see("chmod moves the change time only", (os.stat("file").st_mtime_ns, os.stat("file").st_ctime_ns > before))
    os.chmod(".", 0o777)
    write("open-to-all", b"x")
    os.chmod("open-to-all", 0o666)

    def other():
        attempt("now, by one who may write", os.utime, "open-to-all")
        attempt("another time", os.utime, "open-to-all", (1, 1))
        attempt("now, without rights", os.utime, "file")

    as_user(1000, 1000, [], other)
    # Large, so that the manifest does not read it.
    os.truncate("open-to-all", (1 << 20) + 1)
    os.utime("open-to-all", ns=(1_600_000_000_000_000_001, 1_600_000_000_000_000_002))


@case
def statfs():
    told = os.statvfs(".")
    see("longest name", told.f_namemax)
    see("sane", told.f_blocks >= told.f_bfree >= told.f_bavail > 0 and told.f_files >= told.f_ffree > 0)
    write("file", b"x")
    see("by a file", os.statvfs("file").f_blocks == told.f_blocks)


@case
def extended_attributes():
    write("file", b"x")
    os.setxattr("file", "user.one", b"first")
    os.setxattr("file", b"user.\xff\xfe", b"\x00\x01\x00")
    os.setxattr("file", "user.empty", b"")
    see("names", sorted(os.listxattr("file")))
    see("values", [os.getxattr("file", name) for name in (b"user.one", b"user.\xff\xfe", b"user.empty")])
    attempt("create what is there", os.setxattr, "file", "user.one", b"x", os.XATTR_CREATE)
    attempt("replace what is not", os.setxattr, "file", "user.two", b"x", os.XATTR_REPLACE)
    os.setxattr("file", "user.one", b"second", os.XATTR_REPLACE)
    see("replaced", os.getxattr("file", "user.one"))
    attempt("absent", os.getxattr, "file", "user.absent")
    attempt("remove", os.removexattr, "file", "user.empty")
    attempt("remove again", os.removexattr, "file", "user.empty")
    os.setxattr("file", "user.large", b"v" * 2000)
    see("large", len(os.getxattr("file", "user.large")))
    attempt("too short a buffer", libc, "getxattr", b"file", b"user.large", b"\0" * 10, 10)
    attempt("too large", os.setxattr, "file", "user.huge", b"v" * 65537)
    attempt("too long a name", os.setxattr, "file", "user." + "n" * 251, b"x")
    attempt("unknown namespace", os.setxattr, "file", "nonsense.x", b"x")
    os.symlink("file", "link")
    attempt("user attribute of a symbolic link", os.setxattr, "link", "user.x", b"x", 0, follow_symlinks=False)
    os.mkdir("folder")
    os.setxattr("folder", "user.d", b"directory")
    see("of a directory", os.getxattr("folder", "user.d"))

    def user():
        attempt("set without rights", os.setxattr, "file", "user.y", b"y")
        see("read", os.getxattr("file", "user.one"))

    as_user(1000, 1000, [], user)
    descriptor = os.open("file", os.O_RDWR)
    os.unlink("link")
    os.setxattr(descriptor, "user.fd", b"by descriptor")
    os.rename("file", "renamed")
    see("by descriptor", os.getxattr(descriptor, "user.fd"))
    os.close(descriptor)


@case
def attributes_of_the_system():
    write("file", b"x")
    os.symlink("file", "link")
    attempt("trusted", os.setxattr, "link", "trusted.x", b"of the link", 0, follow_symlinks=False)
    see("of the link", (os.listxattr("link", follow_symlinks=False), os.listxattr("file")))
    os.setxattr("file", "trusted.secret", b"root only")
    as_user(1000, 1000, [], lambda: attempt("trusted by a user", os.getxattr, "file", "trusted.secret"))
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr("file", "security.capability", capability)
    see("capability", os.getxattr("file", "security.capability") == capability)
    append_to("file")
    see("gone with a write", outcome(os.getxattr, "file", "security.capability"))


def acl(*entries):
    """system.posix_acl_*: version 2, then tag, permissions, id."""
    tags = {"u": 1, "U": 2, "g": 4, "G": 8, "m": 16, "o": 32}
    packed = (struct.pack("<HHI", tags[tag], bits, name) for tag, bits, name in entries)
    return struct.pack("<I", 2) + b"".join(packed)


NOBODY = 0xFFFFFFFF


@case
def access_control_lists():
    write("file", b"listed")
    os.chmod("file", 0o600)
    for_user = acl(("u", 6, NOBODY), ("U", 4, 1000), ("g", 0, NOBODY), ("m", 4, NOBODY), ("o", 0, NOBODY))
    os.setxattr("file", "system.posix_acl_access", for_user)
    see("kept", os.getxattr("file", "system.posix_acl_access") == for_user)
    see("mode shows the mask", mode_of("file"))
    as_user(1000, 1000, [], lambda: see("the named user reads", read("file")))
    as_user(1000, 1000, [], lambda: attempt("and may not write", os.open, "file", os.O_WRONLY))
    as_user(1001, 1001, [], lambda: attempt("another may not", os.open, "file", os.O_RDONLY))
    os.chmod("file", 0o600)
    as_user(1000, 1000, [], lambda: attempt("after the mask is taken", os.open, "file", os.O_RDONLY))
    os.chmod("file", 0o640)
    as_user(1000, 1000, [], lambda: attempt("after it is given back", os.open, "file", os.O_RDONLY))
    os.mkdir("folder")
    default = acl(("u", 7, NOBODY), ("g", 5, NOBODY), ("G", 6, 2000), ("m", 7, NOBODY), ("o", 0, NOBODY))
    os.setxattr("folder", "system.posix_acl_default", default)
    os.umask(0o077)
    write("folder/file", b"x", 0o666)
    os.mkdir("folder/below", 0o777)
    os.close(os.open("folder", os.O_TMPFILE | os.O_RDWR, 0o666))
    os.mkfifo("folder/fifo", 0o666)
    see("modes by the default list, not the umask",
        [mode_of(f"folder/{name}") for name in ("file", "below", "fifo")])
    see("list of the new file", os.getxattr("folder/file", "system.posix_acl_access"))
    see("default goes on", os.getxattr("folder/below", "system.posix_acl_default") == default)
    see("a file has no default", outcome(os.getxattr, "folder/file", "system.posix_acl_default"))
    os.removexattr("file", "system.posix_acl_access")
    see("removed", (mode_of("file"), outcome(os.getxattr, "file", "system.posix_acl_access")))
    attempt("nonsense", os.setxattr, "file", "system.posix_acl_access", b"nonsense")
    attempt("default on a file", os.setxattr, "file", "system.posix_acl_default", default)
    as_user(1000, 1000, [], lambda: attempt("by a stranger", os.setxattr, "file", "system.posix_acl_access", for_user))
    minimal = acl(("u", 6, NOBODY), ("g", 4, NOBODY), ("o", 4, NOBODY))
    os.setxattr("file", "system.posix_acl_access", minimal)
    see("a minimal list is a mode", (mode_of("file"), outcome(os.getxattr, "file", "system.posix_acl_access")))
    os.chmod("folder", 0o2775)
    os.chown("folder", 0, 2000)
    os.setxattr("folder", "system.posix_acl_access", acl(
        ("u", 7, NOBODY), ("U", 7, 1000), ("g", 5, NOBODY), ("m", 7, NOBODY), ("o", 5, NOBODY)))
    see("setgid stays with a list", mode_of("folder"))
