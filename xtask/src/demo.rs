//! `cargo xtask demo [DIR]`: a directory of the host in a real Linux guest, served by pinhole, in one command.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pinhole_tests::daemon::Daemon;
use pinhole_tests::guest::Guest;

use crate::console::say;
use crate::guest::{Part, ensure};
use crate::step::{Failure, Outcome, run};
use crate::workspace;

/// What to share, and with which guest.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The directory to share; without it a small tree in a temporary folder
    dir: Option<PathBuf>,
    /// The guest's kernel: User-mode Linux boots in a second, QEMU has PCI
    #[arg(long, value_enum, default_value_t = KernelName::Uml)]
    kernel: KernelName,
    /// No shell in the guest, even on a terminal
    #[arg(long)]
    no_shell: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KernelName {
    Uml,
    Qemu,
}

const TAG: &str = "demo";

/// Written by the guest, read by the host.
const REPLY: &str = "written-by-the-guest.txt";

pub(crate) fn main(arguments: &Arguments) -> Outcome {
    let began = Instant::now();
    prepare(arguments.kernel)?;
    say(format!("ready to start after {:.1} s", began.elapsed().as_secs_f64()));

    let own = if arguments.dir.is_none() { Some(small_tree()?) } else { None };
    let shared = match (&arguments.dir, &own) {
        (Some(dir), _) => dir.clone(),
        (None, Some(folder)) => folder.path().to_path_buf(),
        (None, None) => return Err(Failure::new("no directory to share")),
    };
    if !shared.is_dir() {
        return Err(Failure::new(format!("{} is not a directory", shared.display())));
    }
    let program = workspace::target().join("demo/pinhole");
    let serve = Instant::now();
    let daemon = Daemon::pinhole_at(program, &shared)
        .argument(format!("--tag={TAG}"))
        .start()
        .map_err(|error| Failure::new(error.to_string()))?;
    say(format!("pinhole serves {} after {} ms", shared.display(), serve.elapsed().as_millis()));

    let guest = match arguments.kernel {
        KernelName::Uml => Guest::uml(),
        KernelName::Qemu => Guest::qemu(),
    };
    let guest = guest.share(daemon.socket(), TAG).limit(Duration::from_mins(5));
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && !arguments.no_shell;
    if terminal {
        let leave = match arguments.kernel {
            KernelName::Uml => "",
            KernelName::Qemu => " (or Ctrl-A, X)",
        };
        let hello = format!("{SCRIPT}\necho; echo \"A shell in the guest; leave it with exit{leave}.\"");
        guest.interact(&hello).map_err(|error| Failure::new(error.to_string()))?;
    } else {
        let finished = guest.run(SCRIPT).map_err(|error| Failure::new(error.to_string()))?;
        say(finished.text().trim_end());
        if finished.exit_code != 0 {
            return Err(Failure::new(format!("the guest's script ended with {}", finished.exit_code)));
        }
        say(format!("guest booted, ran and went down in {:.1} s", finished.elapsed.as_secs_f64()));
    }
    read_back(&shared)?;
    say(format!("all of it took {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// The guest's pieces come from the network while the compiler works.
fn prepare(kernel: KernelName) -> Outcome {
    let parts: &[Part] = match kernel {
        KernelName::Uml => &[Part::Base],
        KernelName::Qemu => &[Part::Base, Part::Qemu],
    };
    thread::scope(|scope| {
        let fetching = scope.spawn(|| ensure(parts));
        let built = build();
        let fetched =
            fetching.join().unwrap_or_else(|_panic| Err(Failure::new("fetching the guest panicked")));
        built.and(fetched)
    })
}

fn build() -> Outcome {
    say("building pinhole");
    run(workspace::cargo().args([
        "build",
        "--profile",
        "demo",
        "--quiet",
        "--package",
        "pinhole",
        "--bin",
        "pinhole",
    ]))
}

fn small_tree() -> Outcome<tempfile::TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("pinhole-demo-")
        .tempdir()
        .map_err(Failure::io("cannot make a folder to share"))?;
    let write = |name: &str, text: &[u8]| {
        fs::write(folder.path().join(name), text).map_err(Failure::io(format!("cannot write {name}")))
    };
    write("hello.txt", b"Hello from the host.\n")?;
    fs::create_dir(folder.path().join("folder")).map_err(Failure::io("cannot make a folder"))?;
    write("folder/numbers.txt", b"1\n2\n3\n")?;
    write("zeros-16MiB", &vec![0; 16 << 20])?;
    Ok(folder)
}

const SCRIPT: &str = r#"
cd /mnt/demo
echo "-- guest: $(uname -sr)"
echo "-- mount"; grep virtiofs /proc/mounts
echo "-- listing"; ls -la | head -n 20
echo "-- a file for the host"
rm -f written-by-the-guest.txt
echo "Hello from the guest, $(uname -sr)." > written-by-the-guest.txt && cat written-by-the-guest.txt
echo "-- timings"
t() { awk -v a="$1" -v b="$2" -v w="$3" 'BEGIN { printf "%-38s %.2f s\n", w, b - a }'; }
now() { cut -d' ' -f1 /proc/uptime; }
d=.pinhole-demo-$$; mkdir $d
a=$(now); i=0; while [ $i -lt 500 ]; do : > $d/$i; i=$((i+1)); done; t $a $(now) "500 files created"
a=$(now); ls -l $d > /dev/null; t $a $(now) "500 files listed with attributes"
a=$(now); dd if=/dev/zero of=$d/big bs=1M count=64 2>/dev/null; sync $d/big 2>/dev/null || sync; t $a $(now) "64 MiB written and synced"
echo 3 > /proc/sys/vm/drop_caches
a=$(now); dd if=$d/big of=/dev/null bs=1M 2>/dev/null; t $a $(now) "64 MiB read, guest cache cold"
a=$(now); rm -r $d; t $a $(now) "all removed"
"#;

fn read_back(shared: &Path) -> Outcome {
    let reply = shared.join(REPLY);
    let text = fs::read_to_string(&reply).map_err(Failure::io(format!("cannot read {}", reply.display())))?;
    say(format!("-- the host reads {REPLY}: {}", text.trim_end()));
    Ok(())
}
