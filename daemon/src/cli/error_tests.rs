//! Tests of the form of each error that ends a command or keeps the daemon from starting.

use super::*;
use crate::cli::build::RunError;
use crate::cli::inspect::InspectCommandError;
use crate::cli::policy::{AnswerError, NamedBy, PolicyFileError};
use crate::cli::prepare::PrepareCommandError;
use crate::passthrough::OpenError;
use crate::prepared::ImageError;
use crate::sandbox::SandboxError;
use crate::transport::dev_fuse::{FuseError, MountError};
use crate::transport::vhost_user::{ServeError, Tag};
use pinhole_erofs::write::{InodeFault, WriteError};
use pinhole_policy::Policy;
use pinhole_prepare::{
    ArchiveError, DirectoryError, InspectError, LayerImageError, LayoutError, OutputError, PrepareError,
    TreeError,
};
use std::io;

/// One error and what its message must say.
struct Row {
    variant: &'static str,
    message: String,
    /// The beginning: the option or file, or `host` if the error is about neither.
    about: &'static str,
    /// The value that is wrong, or the name of the part that failed.
    value: &'static str,
    /// What is accepted, or what to do.
    remedy: &'static str,
}

/// Returns one row per variant. Does not compile if a variant has no row.
macro_rules! rows {
    ($error:ident: $($variant:ident $fields:tt => [$about:literal, $value:literal, $remedy:literal],)+) => {{
        let _has_every_row = |error: &$error| match error {
            $($error::$variant { .. } => {})+
        };
        [$(Row {
            variant: concat!(stringify!($error), "::", stringify!($variant)),
            message: $error::$variant $fields.to_string(),
            about: $about,
            value: $value,
            remedy: $remedy,
        }),+]
    }};
}

fn config_rows() -> impl IntoIterator<Item = Row> {
    rows! { ConfigError:
        NoDirectory {} => ["--shared-dir ", "missing", "give the directory"],
        TwoDirectories { source_dir: "/a".into(), shared_dir: "/b".into() } => ["-o source=/a", "/b", "give one"],
        NoSocket {} => ["--socket-path ", "missing", "--fd N"],
        Exclude { first: "--fd", second: "--socket" } => ["--fd and ", "--socket", "give one"],
        SocketPathLong { len: 108 } => ["--socket-path: ", "108", "at most 107"],
        GroupOfDescriptor { group: "kvm".into() } => ["--socket-group ", "kvm", "--socket-path only"],
        Tag(Tag::new("0123456789012345678901234567890123456").unwrap_err()) => ["--tag: ", "37", "at most 36 bytes"],
        Compat { word: "cache=some".into(), right: "give one of auto".into() } => ["-o ", "cache=some", "give"],
        MountOption { word: "loop".into(), known: "ro, rw" } => ["-o ", "loop", "use ro, rw"],
        AclWithoutXattr {} => ["--posix-acl ", "attributes", "drop -o no_xattr"],
        FewDescriptors { limit: 3, least: 512 } => ["--rlimit-nofile: ", "3 ", "at least 512, or 0"],
        WindowLen { len: 3 << 20 } => ["--dax-window: ", "3M", "power of two from 2M on"],
        NoWindow { option: "--dax" } => ["--dax ", "window", "give --dax-window SIZE"],
        Stale { option: "--attr-timeout", seconds: "1".into() } => ["--attr-timeout ", "1 ", "give 0, or use"],
        NoImage { option: "--data" } => ["--data ", "image", "give --prepared IMAGE"],
        SeveralImages { images: vec!["a.erofs".into(), "b.erofs".into()] }
            => ["--prepared: ", "a.erofs, b.erofs", "`pinhole prepare a.erofs b.erofs -o IMAGE`"],
        WithImage { option: "--writeback", why: "an image cannot be changed: leave it out" }
            => ["--writeback ", "--prepared", "leave it out"],
        Sandbox { option: "--modcaps", why: "\"x\" is none: give +NAME".into() } => ["--modcaps: ", "x", "give"],
    }
}

fn sandbox_rows() -> impl IntoIterator<Item = Row> {
    let source = || io::ErrorKind::PermissionDenied.into();
    rows! { SandboxError:
        Share { path: "/srv".into(), source: source() } => ["/srv: ", "permission denied", "give a directory"],
        Proc { source: source() } => ["/proc/self/fd: ", "permission denied", "mount proc"],
        SecondProcess { what: "fork", source: source() } => ["--sandbox: ", "fork: permission", "allow it"],
        Namespace { what: "fork", source: source() } => ["--sandbox namespace: ", "fork: perm", "use --sandbox chroot"],
        Chroot { what: "enter", source: source() } => ["--sandbox chroot: ", "enter: perm", "use --sandbox namespace"],
        Maps("the host refuses them; use others".into()) => ["--uid-map, --gid-map: ", "refuses", "use"],
        Rights { what: "capabilities", source: source() } => ["--sandbox: ", "capabilities: perm", "allow it"],
        Landlock("refused".into()) => ["--sandbox: ", "Landlock rules: refused", "allow it"],
        Filter("no table for mips".into()) => ["--seccomp: ", "mips", "--seccomp none"],
        Required { layer: "landlock".into(), why: "too old".into() } => ["--require landlock: ", "too old", "leave out"],
    }
}

fn run_rows() -> impl IntoIterator<Item = Row> {
    let source = || io::ErrorKind::PermissionDenied.into();
    let group = || crate::cli::group::resolve("no-such-group").unwrap_err();
    let file = || PolicyFileError::Read { path: "/p".into(), named_by: NamedBy::Option, source: source() };
    rows! { RunError:
        Policy(file()) => ["--policy ", "/p", "give a policy file"],
        Answer(AnswerError::Io(source())) => ["standard output: ", "permission denied", "use an output"],
        Prepare(PrepareCommandError::Output(source())) => ["standard output: ", "permission denied", "use an output"],
        Inspect(InspectCommandError::Output(source())) => ["standard output: ", "permission denied", "use an output"],
        Host(OpenError::FoldsNames("/srv".into())) => ["/srv: ", "by path", "use a policy without"],
        Image(ImageError::NotAFile { path: "/i".into() }) => ["/i: ", "not a regular file", "give the file"],
        PathRules("/p".into()) => ["--policy ", "/p", "leave out the rules"],
        NoImage("/p".into()) => ["--policy ", "/p", "give --prepared IMAGE"],
        Memory(source()) => ["host: ", "reserve memory: permission", "lower --thread-pool-size"],
        Sandbox(SandboxError::Proc { source: source() }) => ["/proc/self/fd: ", "permission", "mount proc"],
        VhostUser(ServeError::NotListening { number: 9 }) => ["--fd ", "9", "pass one"],
        Mount(MountError::NoDevice) => ["/dev/fuse ", "missing", "load"],
        DevFuse(FuseError::Init) => ["/dev/fuse: ", "INIT", "use Linux 5.0"],
        Option(group()) => ["--socket-group: ", "no-such-group", "give its number"],
        Scratch(source()) => ["--dax-window: ", "memory file: permission", "allow memfd_create"],
        Control(source()) => ["host: ", "thread: permission", "raise the limit"],
        Io(source()) => ["host: ", "permission denied", "check the limits"],
    }
}

fn policy_rows() -> impl IntoIterator<Item = Row> {
    let source = || io::ErrorKind::NotFound.into();
    let json = || serde_json::from_str::<()>("{").unwrap_err();
    let mistake = || Policy::parse("profile = \"shore\"").unwrap_err();
    let files = rows! { PolicyFileError:
        Read { path: "rotfs".into(), named_by: NamedBy::Word, source: source() } => ["rotfs: ", "not found", "did you mean"],
        Policy { path: "a.toml".into(), source: mistake() } => ["a.toml:1:11: ", "\"shore\"", "did you mean"],
    };
    let answers = rows! { AnswerError:
        Policy(PolicyFileError::Read { path: "/p".into(), named_by: NamedBy::Option, source: source() })
            => ["--policy ", "/p", "give a policy file"],
        Io(source()) => ["standard output: ", "not found", "use an output"],
        Json(json()) => ["--json: ", "invalid type", "report it"],
    };
    files.into_iter().chain(answers)
}

fn prepare_rows() -> impl IntoIterator<Item = Row> {
    let source = || io::ErrorKind::StorageFull.into();
    let prepare = || PrepareError::Output(OutputError::Interrupted);
    let fault = InodeFault::Permissions(0o10_000);
    let commands = rows! { PrepareCommandError:
        Prepare(prepare()) => ["prepare: ", "interrupted", "run it again"],
        Several("-".into()) => ["SOURCE: ", "- cannot", "give one SOURCE, or only EROFS images"],
        Signals(source()) => ["host: ", "no storage space", "raise the limit"],
        Output(source()) => ["standard output: ", "no storage space", "use an output"],
    };
    let all = rows! { PrepareError:
        Directory(DirectoryError::Inside { path: "/s/out".into() }) => ["/s/out: ", "written there", "outside"],
        Archive(ArchiveError::Compression { archive: "a".into(), with: "xz" }) => ["a: ", "xz", "give tar, plain"],
        Layout(LayoutError::Digest { path: "/l".into(), digest: "md5:0".into() }) => ["/l: ", "md5:0", "only sha256:"],
        LayerImage(LayerImageError::Many { count: 300, most: 256 }) => ["300 images ", "300", "at most 256"],
        Output(OutputError::Exists { path: "/i".into() }) => ["/i: ", "exists", "give --force"],
        Image { path: "/i".into(), source: WriteError::Inode { index: 1, fault } } => ["/i: ", "0o10000", "give a smaller"],
    };
    let outputs = rows! { OutputError:
        Exists { path: "/i".into() } => ["/i: ", "exists", "give --force"],
        NotAFile { path: "/dev/null".into() } => ["/dev/null: ", "not a regular file", "give another IMAGE"],
        NoName { path: "..".into() } => ["..: ", "not the name", "end IMAGE with a file name"],
        Folder { path: "/d".into(), source: source() } => ["/d: ", "no storage space", "give one that exists"],
        Write { path: "/d".into(), source: source() } => ["/d: ", "no storage space", "free space"],
        DataChanged { path: "/d/0.data".into() } => ["/d/0.data: ", "bytes", "remove the file"],
        DataLong { path: "/d".into(), most: 9 } => ["/d: ", "9 bytes", "give layers with less data"],
        Interrupted {} => ["prepare: ", "interrupted", "run it again"],
    };
    let inspects = rows! { InspectCommandError:
        Inspect(InspectError::Read { path: "/i".into(), source: source() }) => ["/i: ", "no storage space", "give an image"],
        Output(source()) => ["standard output: ", "no storage space", "use an output"],
    };
    let inspect = rows! { InspectError:
        Read { path: "/i".into(), source: source() } => ["/i: ", "no storage space", "give an image"],
        DataCount { path: "/i".into(), given: 1, needed: 2 } => ["/i: ", "1 data files", "give all of them or none"],
        Format { path: "/i".into(), why: "no magic".into() } => ["/i: ", "no magic", "give an image of `pinhole prepare`"],
    };
    commands.into_iter().chain(inspects).chain(inspect).chain(all).chain(outputs)
}

fn source_rows() -> impl IntoIterator<Item = Row> {
    let source = || io::ErrorKind::NotFound.into();
    let tree = || TreeError::Root;
    let directories = rows! { DirectoryError:
        Read { path: "/s".into(), source: source() } => ["/s: ", "not found", "give a directory, a tar file"],
        Changed { path: "/s/a".into() } => ["/s/a: ", "changed", "give a tree that does not change"],
        Inside { path: "/s/out".into() } => ["/s/out: ", "written there", "outside of the source"],
        Kind { path: "/dev/sda".into() } => ["/dev/sda: ", "not a directory", "give a directory, a tar file"],
        Entry { path: "/s/a".into(), source: tree() } => ["/s/a: ", "root", "attributes of a directory"],
    };
    let archives = rows! { ArchiveError:
        Read { archive: "a".into(), source: source() } => ["a: ", "not found", "give a tar file"],
        NotTar { archive: "a".into(), offset: 512, why: "is wrong" } => ["a: ", "512 is wrong", "give tar, plain"],
        Compression { archive: "a".into(), with: "xz" } => ["a: ", "xz", "give tar, plain, gzip or zstd"],
        Cut { archive: "a".into(), offset: 512 } => ["a: ", "byte 512", "give the whole file"],
        Trailing { archive: "a".into(), offset: 512 } => ["a: ", "byte 512", "give one archive alone"],
        Entry { archive: "a".into(), entry: "b".into(), source: tree() } => ["a: entry \"b\": ", "root", "attributes"],
        Refused { archive: "a".into(), entry: "b".into(), what: "type 'V'".into(), remedy: "only files" }
            => ["a: entry \"b\": ", "'V'", "only files"],
    };
    let trees = rows! { TreeError:
        Limit { subject: "the path", unit: "bytes", count: 5000, most: 4095 } => ["the path ", "5000", "at most 4095"],
        Name { name: "..".into(), why: "leaves" } => ["the name ", "\"..\" leaves", "give relative names"],
        XattrName { name: "x.y".into() } => ["\"x.y\" ", "x.y", "use user., trusted."],
        NotADirectory { name: "a".into() } => ["its directory ", "\"a\"", "put a directory"],
        Loop {} => ["the path ", "40 symlinks", "remove their loop"],
        Link { target: "t".into(), why: "is not there" } => ["it is a hard link ", "\"t\"", "put its target before"],
        Root {} => ["the root ", "not a directory", "put only attributes"],
    };
    let path = || "/l".into();
    let images = rows! { LayerImageError:
        Read { path: path(), source: source() } => ["/l: ", "not found", "give an EROFS image"],
        Format { path: path(), why: "no magic".into() } => ["/l: ", "no magic", "give uncompressed EROFS images"],
        Devices { path: path(), count: 2 } => ["/l: ", "2 data files", "give images that hold their data"],
        Entry { path: path(), entry: "b".into(), source: tree() } => ["/l: entry \"b\": ", "root", "attributes"],
        Damaged { path: path(), entry: "b".into(), why: "bad".into() } => ["/l: entry \"b\": ", "bad", "make the image again"],
        Overlay { path: path(), entry: "b".into(), name: "x".into() } => ["/l: entry \"b\": ", "x means", "only whiteouts"],
        Many { count: 300, most: 256 } => ["300 images ", "300", "at most 256"],
    };
    directories.into_iter().chain(archives).chain(trees).chain(images)
}

fn layout_rows() -> impl IntoIterator<Item = Row> {
    let (path, known) = (|| "/l".into(), || "\"one\"".into());
    let source = || io::ErrorKind::NotFound.into();
    rows! { LayoutError:
        Read { path: path(), source: source() } => ["/l: ", "not found", "give the folder"],
        Json { path: path(), what: "it has no list".into() } => ["/l: ", "no list", "give an OCI image layout"],
        Long { path: path(), len: 9, most: 8 } => ["/l: ", "9 bytes", "at most 8"],
        Blob { path: path(), what: "size", found: "1".into(), expected: "2".into() } => ["/l: ", "1, not 2", "copy"],
        Digest { path: path(), digest: "md5:0".into() } => ["/l: ", "\"md5:0\"", "only sha256:"],
        NoImage { path: path(), wanted: "tagged \"t\"".into(), known: known() } => ["/l: ", "\"t\"", "there is"],
        Several { path: path(), known: known() } => ["/l: ", "several", "give one with oci:DIR:TAG"],
        MediaType { path: path(), layer: 1, media_type: "text".into() } => ["/l: ", "\"text\"", "only tar"],
        Layers { path: path(), count: 300, most: 256 } => ["/l: ", "300", "at most 256"],
    }
}

fn open_rows() -> impl IntoIterator<Item = Row> {
    let errno = rustix::io::Errno::ACCESS;
    rows! { OpenError:
        Root { path: "/srv".into(), source: errno } => ["/srv: ", "Permission denied", "give a directory"],
        Proc(errno) => ["/proc/self/fd: ", "Permission denied", "mount proc"],
        InodeHandles("/srv".into()) => ["--inode-file-handles mandatory: ", "/srv", "use prefer"],
        FoldsNames("/srv".into()) => ["/srv: ", "rules by path", "use a policy without"],
        Openat2(errno) => ["host: ", "openat2 (Permission", "use Linux 5.6"],
        Thread { source: io::ErrorKind::WouldBlock.into() } => ["host: ", "directory: operation", "allow threads"],
        Identity(errno) => ["host: ", "process: Permission", "allow capget"],
    }
}

fn image_rows() -> impl IntoIterator<Item = Row> {
    use pinhole_erofs::{OpenError as Format, Refused, SourceError};
    let source = || io::ErrorKind::NotFound.into();
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64)).parse().unwrap();
    let images = rows! { ImageError:
        Image { path: "/i".into(), source: source() } => ["/i: ", "not found", "give an image"],
        NotAFile { path: "/i".into() } => ["/i: ", "not a regular file", "give the file"],
        Format { path: "/i".into(), source: Format::NotErofs } => ["/i: ", "no magic number", "`pinhole prepare`"],
        Digest { path: "/i".into(), wanted: digest("a"), found: digest("b") }
            => ["--image-digest sha256:aaaa", "/i has sha256:bbbb", "give the image"],
        DataCount { needed: 2, given: 1 } => ["--data: ", "2 data files, 1", "give each"],
        NamelessData { path: "/i".into(), number: 1, count: 2 } => ["/i: ", "1 of 2", "with --data"],
        DataDigest { path: "/d.data".into(), wanted: "aa".into(), found: "bb".into() }
            => ["/d.data: ", "bb, not aa", "give the data file"],
        NoDataDigest { path: "/d.data".into() } => ["--verify-data: ", "/d.data", "leave it out"],
        Data { path: "/d.data".into(), source: source() } => ["/d.data: ", "not found", "--data"],
    };
    let format = |source| ImageError::Format { path: "/i".into(), source }.to_string();
    let refused = format(Format::Refused(Refused::Fragments));
    assert!(refused.contains("FRAGMENTS") && refused.ends_with("make the image again with pinhole prepare"));
    let root = format(Format::Root(SourceError.into()));
    assert!(root.contains("root directory cannot be read: the image cannot be read there"), "{root}");
    images
}

fn serve_rows() -> impl IntoIterator<Item = Row> {
    use vhost_user_backend::Error::StartDaemon;
    let source = || io::ErrorKind::PermissionDenied.into();
    rows! { ServeError:
        InUse { path: "/run/s".into() } => ["/run/s ", "in use", "stop it, or give"],
        NotASocket { path: "/run/s".into() } => ["/run/s ", "not a socket", "remove it, or give"],
        Bind { path: "/run/s".into(), source: source() } => ["/run/s: ", "permission", "give a --socket-path"],
        Group { path: "/run/s".into(), group: 7, source: source() } => ["--socket-group: ", "7", "give a group"],
        Descriptor { number: 9, source: source() } => ["--fd 9: ", "permission denied", "pass a listening"],
        NotListening { number: 9 } => ["--fd 9 ", "not a listening", "pass one"],
        Accept(source()) => ["host: ", "connection: permission", "raise --rlimit-nofile"],
        Backend(StartDaemon(source())) => ["host: ", "device: ", "raise the limits"],
        Offload(source()) => ["host: ", "requests: permission", "raise the limit"],
        Event(source()) => ["host: ", "event: permission", "raise --rlimit-nofile"],
    }
}

fn mount_rows() -> impl IntoIterator<Item = Row> {
    let source = || io::ErrorKind::PermissionDenied.into();
    let mounts = rows! { MountError:
        NoDevice {} => ["/dev/fuse ", "missing", "modprobe fuse"],
        Device { source: source() } => ["/dev/fuse: ", "permission denied", "let this user"],
        Stale { path: "/mnt".into() } => ["/mnt ", "server is gone", "run `umount"],
        Mountpoint { path: "/mnt".into(), source: source() } => ["/mnt ", "permission", "give an existing directory"],
        Inside { path: "/a/b".into(), shared: "/a".into() } => ["/a/b ", "directory /a:", "mount it elsewhere"],
        Mount { path: "/mnt".into(), source: source() } => ["/mnt: ", "permission", "allow mounts"],
        NoFusermount { source: source() } => ["fusermount3 ", "permission denied", "install"],
        Fusermount { path: "/mnt".into(), text: "no right".into() } => ["/mnt: ", "no right", "see fusermount3(1)"],
    };
    let serves = rows! { FuseError:
        Read { source: source() } => ["/dev/fuse: ", "permission denied", "mount again"],
        Init {} => ["/dev/fuse: ", "INIT", "use Linux 5.0"],
        Panicked {} => ["host: ", "panicked", "please report"],
        Thread { source: source() } => ["--threads: ", "permission denied", "raise the limit"],
    };
    mounts.into_iter().chain(serves)
}

#[test]
fn every_error_names_its_subject_its_value_and_a_remedy() {
    let rows = config_rows().into_iter().chain(sandbox_rows()).chain(run_rows()).chain(policy_rows());
    let rows = rows.chain(prepare_rows()).chain(source_rows()).chain(layout_rows());
    let rows = rows.chain(image_rows());
    for row in rows.chain(open_rows()).chain(serve_rows()).chain(mount_rows()) {
        let Row { variant, message, about, value, remedy } = row;
        assert!(message.starts_with(about), "{variant} begins without {about:?}: {message}");
        assert!(message.contains(value), "{variant} lacks the value {value:?}: {message}");
        assert!(message.contains(remedy), "{variant} lacks the remedy {remedy:?}: {message}");
        assert!(!message.contains('\n') && !message.contains("  "), "{variant} is not one line: {message}");
        assert!(!message.ends_with('.'), "{variant} ends with a period: {message}");
    }
}

#[test]
fn a_number_of_bytes_is_shown_with_its_unit() {
    for (bytes, text) in [(1, "1"), (4096, "4K"), (3 << 20, "3M"), (1 << 30, "1G"), (8 << 40, "8T")] {
        assert_eq!(with_unit(bytes), text);
    }
}
