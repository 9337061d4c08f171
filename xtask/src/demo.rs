//! `cargo xtask demo [DIR]` shows a directory of the host in a real Linux guest, in one command.
//! `cargo xtask demo --rootfs` shows a guest whose root is a prepared image.

mod rootfs;
mod steps;

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pinhole_tests::daemon::Daemon;
use pinhole_tests::guest::Guest;

use self::steps::{build_and_fetch, step, try_next};
use crate::console::say;
use crate::guest::Part;
use crate::step::{Failure, Outcome};
use crate::workspace;

/// The directory to share and the guest to boot.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// The directory to share; the default is a small tree in a temporary folder
    dir: Option<PathBuf>,
    /// The guest's kernel: User-mode Linux boots in a second, QEMU has PCI
    #[arg(long, value_enum, default_value_t = KernelName::Uml)]
    kernel: KernelName,
    /// Open no shell in the guest, even on a terminal
    #[arg(long)]
    no_shell: bool,
    /// Prepare an image of a Debian userland and boot a guest whose root is that image
    #[arg(long, conflicts_with_all = ["dir", "kernel", "no_shell"])]
    rootfs: bool,
}

/// Kernel of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KernelName {
    Uml,
    Qemu,
}

/// Tag of the share, and name of its mount point in the guest.
const TAG: &str = "demo";

/// The file that the guest writes and the host reads.
const REPLY: &str = "written-by-the-guest.txt";

/// Builds pinhole, shares a directory, boots a guest, and shows what both sides see.
pub(crate) fn main(arguments: &DemoArguments) -> Outcome {
    if arguments.rootfs {
        return rootfs::main();
    }
    let began = Instant::now();
    let temporary = if arguments.dir.is_none() { Some(small_tree()?) } else { None };
    let shared = match (&arguments.dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(folder)) => folder.path().to_path_buf(),
        (None, None) => return Err(Failure::new("there is no directory to share")),
    };
    if !shared.is_dir() {
        return Err(Failure::new(format!("DIR: {} is not a directory", shared.display())));
    }
    step(1, "Build pinhole and fetch a Linux guest");
    build_and_fetch(match arguments.kernel {
        KernelName::Uml => &[Part::Base],
        KernelName::Qemu => &[Part::Base, Part::Qemu],
    })?;
    say(format!("   ready after {:.1} s", began.elapsed().as_secs_f64()));

    let program = workspace::target().join("demo/pinhole");
    let serve_began = Instant::now();
    let daemon = Daemon::pinhole_at(&program, &shared)
        .argument(format!("--tag={TAG}"))
        .start()
        .map_err(|error| Failure::new(error.to_string()))?;
    let ready = serve_began.elapsed().as_millis();
    step(2, &format!("Share {}", shared.display()));
    say(format!(
        "   command: {} --shared-dir {} --socket-path {} --tag {TAG}",
        program.display(),
        shared.display(),
        daemon.socket().display()
    ));
    say(format!("   socket:  {}, ready after {ready} ms", daemon.socket().display()));
    say(format!("   log:     {}", daemon.log().display()));

    step(3, "Boot a guest that mounts the share: mount -t virtiofs demo /mnt/demo");
    boot(arguments, daemon.socket())
        .map_err(|failure| Failure::new(format!("{failure}{}", daemon.stderr())))?;

    step(4, &format!("Read on the host what the guest wrote to {REPLY}"));
    say(format!("   {}", reply_in(&shared)?.trim_end()));
    say(format!(
        "   The demo took {:.1} s. It now removes its socket, its log and its temporary folder.",
        began.elapsed().as_secs_f64()
    ));
    let program = program.display();
    try_next(&[
        ("cargo xtask demo DIR".to_owned(), "share your own directory"),
        ("cargo xtask demo --rootfs".to_owned(), "boot a guest whose root is a prepared image"),
        (format!("{program} mount DIR MOUNTPOINT"), "serve a share without a VM"),
        (format!("{program} policy explain"), "print what a guest may do"),
    ]);
    Ok(())
}

/// Boots the guest and runs [`SCRIPT`] in it. On a terminal, a shell follows.
fn boot(arguments: &DemoArguments, socket: &Path) -> Outcome {
    let guest = match arguments.kernel {
        KernelName::Uml => Guest::uml(),
        KernelName::Qemu => Guest::qemu(),
    };
    let guest = guest.share(socket, TAG).limit(Duration::from_mins(5));
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && !arguments.no_shell {
        let leave = match arguments.kernel {
            KernelName::Uml => "",
            KernelName::Qemu => " (or Ctrl-A, X)",
        };
        let script = format!("{SCRIPT}\necho; echo \"A shell in the guest. Leave it with exit{leave}.\"");
        guest.interact(&script).map_err(|error| Failure::new(error.to_string()))?;
        return Ok(());
    }
    let finished = guest.run(SCRIPT).map_err(|error| Failure::new(error.to_string()))?;
    say(finished.text().trim_matches('\n'));
    if finished.exit_code != 0 {
        return Err(Failure::new(format!("the script in the guest ended with {}", finished.exit_code)));
    }
    say(format!("   The guest booted, ran and shut down in {:.1} s.", finished.elapsed.as_secs_f64()));
    Ok(())
}

/// Creates the directory that is shared without DIR.
fn small_tree() -> Outcome<tempfile::TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("pinhole-demo-")
        .tempdir()
        .map_err(Failure::io("cannot create a folder to share"))?;
    let write = |name: &str, text: &[u8]| {
        fs::write(folder.path().join(name), text).map_err(Failure::io(format!("cannot write {name}")))
    };
    write("hello.txt", b"Hello from the host.\n")?;
    fs::create_dir(folder.path().join("folder")).map_err(Failure::io("cannot create a folder"))?;
    write("folder/numbers.txt", b"1\n2\n3\n")?;
    write("zeros-16MiB", &vec![0; 16 << 20])?;
    Ok(folder)
}

/// Script of the guest: shows the share, writes [`REPLY`], and prints how long some operations
/// take.
const SCRIPT: &str = r#"
cd /mnt/demo
show() { sed 's/^/   /'; }
echo "   -- the guest: $(uname -sr)"
grep virtiofs /proc/mounts | show
echo "   -- what it sees"; ls -la | head -n 20 | show
rm -f written-by-the-guest.txt
echo "Hello from the guest, $(uname -sr)." > written-by-the-guest.txt
echo "   -- what it can do"
t() { awk -v a="$1" -v b="$2" -v w="$3" 'BEGIN { printf "   %-38s %.2f s\n", w, b - a }'; }
now() { cut -d' ' -f1 /proc/uptime; }
d=.pinhole-demo-$$; mkdir $d
a=$(now); i=0; while [ $i -lt 500 ]; do : > $d/$i; i=$((i+1)); done; t $a $(now) "create 500 files"
a=$(now); ls -l $d > /dev/null; t $a $(now) "list 500 files with attributes"
a=$(now); dd if=/dev/zero of=$d/big bs=1M count=64 2>/dev/null; sync $d/big 2>/dev/null || sync; t $a $(now) "write and sync 64 MiB"
echo 3 > /proc/sys/vm/drop_caches
a=$(now); dd if=$d/big of=/dev/null bs=1M 2>/dev/null; t $a $(now) "read 64 MiB, guest cache empty"
a=$(now); rm -r $d; t $a $(now) "remove all of it"
"#;

/// Reads the file [`REPLY`] on the host.
fn reply_in(shared: &Path) -> Outcome<String> {
    let reply = shared.join(REPLY);
    fs::read_to_string(&reply).map_err(Failure::io(format!("cannot read {}", reply.display())))
}
