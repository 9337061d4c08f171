//! Is a prepared image in a real guest the directory that it was made from, and can overlayfs write
//! over it?

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::OnceLock;

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::program::{pinhole, run};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::cases::{Shared, boot};
use super::host_view::HostView;
use super::report::Report;

/// Files of the largest directory.
const FILES: usize = 3000;

/// `security.capability` of version 2 with CAP_NET_BIND_SERVICE.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Script in the guest. The harness has mounted the share without `ro`.
const SCRIPT: &str = r#"
    set +e
    cat > /tmp/probe.py <<'END'
import errno, os, sys

def attempt(what, action):
    try:
        print(what, action())
    except OSError as error:
        print(what, errno.errorcode[error.errno])

top = sys.argv[1]
os.chdir(top)
attempt("read", lambda: open("tree/file", "rb").read(4))
attempt("open", lambda: os.open("tree/file", os.O_WRONLY) > 0)
attempt("write", lambda: os.write(os.open("tree/file", os.O_WRONLY), b"x"))
attempt("truncate", lambda: os.truncate("tree/file", 0))
attempt("create", lambda: os.open("new", os.O_CREAT | os.O_WRONLY))
attempt("unlink", lambda: os.unlink("tree/file"))
attempt("sync", lambda: os.fsync(os.open("tree/file", os.O_RDONLY)))
attempt("lock", lambda: __import__("fcntl").flock(os.open("tree/file", os.O_RDONLY), 6))
attempt("names", lambda: sorted(os.listxattr("tree/file")))
attempt("value", lambda: os.getxattr("tree/file", "user.comment"))
attempt("capability", lambda: len(os.getxattr("tree/program", "security.capability")))
attempt("hole", lambda: os.lseek(os.open("tree/sparse", os.O_RDONLY), 0, os.SEEK_DATA))
attempt("files", lambda: len(os.listdir("many")))
END
    echo '@ image writable'; python3 -B /tmp/probe.py /mnt/image; echo '@ end'
    umount /mnt/image && mount -t virtiofs -o ro image /mnt/image
    echo '@ image readonly'; python3 -B /tmp/probe.py /mnt/image; echo '@ end'
    echo '@ image manifest'; posix manifest /mnt/image; echo '@ end'
    mkdir -p /tmp/over
    mount -t tmpfs tmpfs /tmp/over
    mkdir /tmp/over/upper /tmp/over/work /tmp/over/merged
    echo '@ image overlay'
    mount -t overlay overlay /tmp/over/merged \
        -o lowerdir=/mnt/image,upperdir=/tmp/over/upper,workdir=/tmp/over/work,index=on,nfs_export=on,xino=off \
        && echo mounted
    cd /tmp/over/merged
    echo more >> tree/file && tail -c5 tree/file
    cmp -s tree/file tree/link && echo 'one file'
    rm tree/program && test ! -e tree/program && echo removed
    mv tree/sparse tree/renamed && stat -c '%s %b' tree/renamed | cut -d' ' -f1
    mkdir tree/new && touch tree/new/x && ls tree/new
    chmod 600 many/file-00001 && stat -c %a many/file-00001
    ls many | wc -l
    cd /
    umount /tmp/over/merged && echo unmounted
    tail -c4 /mnt/image/tree/file
    test -e /mnt/image/tree/program && echo 'the image is as it was'
    echo '@ end'
    dmesg | grep -i overlay | head -3
    "#;

/// Results of the one boot.
struct ImageBoot {
    report: Report,
    source: HostView,
}

fn booted() -> &'static ImageBoot {
    static BOOTED: OnceLock<ImageBoot> = OnceLock::new();
    BOOTED.get_or_init(|| {
        let source = Shared::new();
        make_tree(&source.path);
        let view = HostView::of(&source.path);
        let image = source.path.with_file_name("image");
        let mut prepare = pinhole(["prepare"]).unwrap();
        let ended = run(prepare.arg(&source.path).arg("-o").arg(&image)).unwrap();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let report = boot(SCRIPT, vec![("image", serve(&image))]);
        ImageBoot { report, source: view }
    })
}

fn serve(image: &Path) -> Serving {
    Daemon::of_image(image).unwrap().argument("--tag=image").start().unwrap()
}

/// Makes files of each kind.
fn make_tree(top: &Path) {
    let at = |name: &str| top.join(name);
    fs::create_dir(at("tree")).unwrap();
    fs::write(at("tree/file"), "text").unwrap();
    fs::hard_link(at("tree/file"), at("tree/link")).unwrap();
    fs::write(at("tree/program"), vec![7; 100_000]).unwrap();
    fs::write(at("tree/empty"), "").unwrap();
    symlink("file", at("tree/symlink")).unwrap();
    symlink("x".repeat(4000), at("tree/long")).unwrap();
    fs::write(at("tree").join("n".repeat(255)), "long name").unwrap();
    let sparse = File::create(at("tree/sparse")).unwrap();
    sparse.write_all_at(b"data", 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    let special = |name, kind, device| rustix::fs::mknodat(CWD, at(name), kind, Mode::RUSR, device).unwrap();
    special("tree/null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    special("tree/disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    special("tree/fifo", FileType::Fifo, 0);
    special("tree/socket", FileType::Socket, 0);
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("tree/file", "user.comment", b"a comment");
    set("tree/file", "trusted.hidden", b"not for the guest");
    set("tree/program", "security.capability", &CAPABILITY);
    let (uid, gid) = (Some(Uid::from_raw(1000)), Some(Gid::from_raw(u32::MAX - 1)));
    rustix::fs::chownat(CWD, at("tree/empty"), uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    fs::set_permissions(at("tree/empty"), fs::Permissions::from_mode(0o6711)).unwrap();
    fs::create_dir(at("many")).unwrap();
    for number in 0..FILES {
        let name = at(&format!("many/file-{number:05}"));
        fs::write(&name, vec![b'x'; number % 50]).unwrap();
    }
    let old = Timespec { tv_sec: -1_000_000_000, tv_nsec: 999_999_999 };
    let times = Timestamps { last_access: old, last_modification: old };
    rustix::fs::utimensat(CWD, at("tree/symlink"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn guest_finds_the_directory_in_the_image() {
    let booted = booted();
    let mut guest = booted.report.lines("image", "manifest").to_vec();
    guest.sort();
    assert!(guest.len() > FILES, "{}", booted.report.ended);
    assert_eq!(guest, booted.source.manifest());
}

#[test]
fn changes_fail_at_open_only_if_mounted_read_only() {
    let files = format!("files {FILES}");
    let same = [
        "truncate EROFS",
        "create EROFS",
        "unlink EROFS",
        "sync None",
        "lock None",
        "names ['user.comment']",
        "value b'a comment'",
        "capability 20",
        "hole 1048576",
        &files,
    ];
    for (section, open, write) in
        [("readonly", "open EROFS", "write EROFS"), ("writable", "open True", "write EROFS")]
    {
        let lines = booted().report.lines("image", section);
        assert_eq!(lines, [&["read b'text'", open, write][..], &same].concat(), "{section}");
    }
}

#[test]
fn overlayfs_writes_over_the_image_and_may_be_exported() {
    let booted = booted();
    let lines = booted.report.lines("image", "overlay");
    let count = FILES.to_string();
    let expected = [
        "mounted",
        "more",
        "one file",
        "removed",
        "3145728",
        "x",
        "600",
        &count,
        "unmounted",
        "textthe image is as it was",
    ];
    assert_eq!(lines, expected, "{}", booted.report.ended);
}

#[test]
fn daemon_of_an_image_prints_no_error() {
    for (name, ended, stderr) in &booted().report.daemons {
        assert_eq!(ended, "exit status: 0", "{name}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("ERROR"), "{name}: {stderr}");
    }
}
