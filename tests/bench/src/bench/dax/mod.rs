//! `cargo xtask bench --dax`: measures the DAX window. The command `dax-guest` of this program
//! (`guest`) acts as a guest and its VMM, which maps over a reserved range. Each guest is a process
//! of its own.
//!
//! - Loads and stores through the window are compared with a mapping of the same file on the host,
//!   in turns within one process.
//! - Reads of random blocks are compared with READ requests of the same guest.
//! - The memory of 1, 2 and 4 guests that read one file is compared with and without the window.
//!   Without the window, each guest has its own copy.

pub(crate) mod guest;
mod player;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use pinhole_tests::daemon::{Daemon, Serving};
use rustix::fs::Advice;

use super::aims::Bound;
use super::rows::Rows;
use crate::conditions::Conditions;
use crate::console::say;
use crate::programs;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome};

/// Length of the file and of the window, in bytes.
const LEN: u64 = 256 << 20;

/// The same length, in MiB.
const LEN_MIB: f64 = 256.0;

/// Numbers of guests that run at the same time.
const GUESTS: [usize; 3] = [1, 2, 4];

/// Name of the file that the guests map and read.
const FILE: &str = "file";

/// Aims for rows.
const AIMS: [(&str, Bound); 7] = [
    ("load, of native", Bound::AtLeast(0.95)),
    ("store, of native", Bound::AtLeast(0.95)),
    ("map and unmap, us", Bound::AtMost(30.0)),
    ("random 4 KiB, of READ", Bound::AtLeast(1.0)),
    // All guests together may use the memory of one copy of the file, and a tenth of it for the
    // rest.
    ("4 guests mapped: PSS, MiB", Bound::AtMost(LEN_MIB * 1.1)),
    ("4 guests mapped: page cache, MiB", Bound::AtMost(LEN_MIB * 1.1)),
    ("4 guests: PSS by READ, of mapped", Bound::AtLeast(3.0)),
];

/// Measures in `turns` turns, with `seconds` for each figure. `load` is the load average before the
/// build.
pub(crate) fn main(turns: u16, seconds: f64, load: &str) -> Outcome {
    let run_folder = RunFolder::new()?;
    let program = programs::pinhole()?;
    let conditions = Conditions::of_run(&program, run_folder.path(), load);
    let share = run_folder.path().join("dax");
    fs::create_dir_all(&share).map_err(Failure::io("cannot create the share"))?;
    let file = create_file(&share.join(FILE))?;
    let bench = Bench { program, share, seconds };
    let mut rows = Rows::default();
    for turn in 1..=turns {
        say(format!("turn {turn} of {turns}"));
        bench.speed(&mut rows)?;
        for guests in GUESTS {
            bench.memory(guests, &file, &mut rows)?;
        }
    }
    say(format!("\n{}; {}; turns: {turns}", conditions.date, conditions.host));
    rows.show(&AIMS);
    Ok(())
}

/// Creates the file, and returns it open.
fn create_file(path: &Path) -> Outcome<File> {
    let failed = || Failure::io(format!("cannot create {}", path.display()));
    let mut file =
        File::options().create(true).truncate(true).read(true).write(true).open(path).map_err(failed())?;
    let block: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    for _ in 0..LEN >> 20 {
        file.write_all(&block).map_err(failed())?;
    }
    file.sync_all().map_err(failed())?;
    Ok(file)
}

/// Program and share of the benchmark.
struct Bench {
    program: PathBuf,
    share: PathBuf,
    /// Time for each figure, in seconds.
    seconds: f64,
}

impl Bench {
    /// Starts a daemon and its guest.
    fn guest(&self) -> Outcome<DaxGuest> {
        let daemon = Daemon::pinhole_at(&self.program, &self.share);
        let daemon = daemon.argument(format!("--dax-window={LEN}")).argument("--dax=always").start();
        let daemon = daemon.map_err(|error| Failure::new(error.to_string()))?;
        DaxGuest::start(daemon, &self.share, self.seconds)
    }

    /// Measures the speed of one guest.
    fn speed(&self, rows: &mut Rows) -> Outcome {
        let mut guest = self.guest()?;
        guest.ask("map")?;
        for (asked, unit, other) in [("load", "GiB/s", "native"), ("store", "GiB/s", "native")] {
            let [window, native] = guest.pair(asked)?;
            rows.add(&format!("{asked} by window, {unit}"), window);
            rows.add(&format!("{asked} {other}, {unit}"), native);
            rows.add(&format!("{asked}, of {other}"), window / native);
        }
        let [window, read] = guest.pair("random")?;
        rows.add("random 4 KiB by window, op/s", window);
        rows.add("random 4 KiB by READ, op/s", read);
        rows.add("random 4 KiB, of READ", window / read);
        rows.add("map and unmap, us", guest.number("latency")?);
        rows.add("map and unmap by the back channel alone, us", guest.number("back-channel")?);
        Ok(())
    }

    /// Measures the memory of guests that read the file, with the window and without.
    fn memory(&self, count: usize, file: &File, rows: &mut Rows) -> Outcome {
        let mut pss = [0.0; 2];
        for (held, (word, name)) in pss.iter_mut().zip([("map", "mapped"), ("read", "by READ")]) {
            evict(file)?;
            let mut guests = (0..count).map(|_| self.guest()).collect::<Outcome<Vec<_>>>()?;
            let before = (pss_mib(&guests)?, page_cache_mib()?);
            for guest in &mut guests {
                guest.ask(word)?;
            }
            *held = pss_mib(&guests)? - before.0;
            let plural = if count == 1 { "guest" } else { "guests" };
            rows.add(&format!("{count} {plural} {name}: PSS, MiB"), *held);
            rows.add(&format!("{count} {plural} {name}: page cache, MiB"), page_cache_mib()? - before.1);
        }
        let [mapped, read] = pss;
        if count > 1 {
            rows.add(&format!("{count} guests: PSS by READ, of mapped"), read / mapped);
        }
        Ok(())
    }
}

/// Removes the file from the host's page cache.
fn evict(file: &File) -> Outcome {
    file.sync_all().map_err(Failure::io("cannot write the file back"))?;
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)
        .map_err(|error| Failure::new(format!("cannot remove the file from the page cache: {error}")))
}

/// Returns the proportional set size of the guests and their daemons, in MiB.
fn pss_mib(guests: &[DaxGuest]) -> Outcome<f64> {
    let mut kib = 0;
    for process in guests.iter().flat_map(|guest| [guest.child.id(), guest.daemon.serving_id()]) {
        kib += field_kib(&format!("/proc/{process}/smaps_rollup"), "Pss:")?;
    }
    mib(kib)
}

/// Returns the size of the host's page cache without tmpfs and memfds, in MiB.
fn page_cache_mib() -> Outcome<f64> {
    let field = |name| field_kib("/proc/meminfo", name);
    mib(field("Cached:")?.saturating_sub(field("Shmem:")?))
}

/// Returns the number of the field `name` in a file of /proc, in KiB.
fn field_kib(path: &str, name: &str) -> Outcome<u64> {
    let text = fs::read_to_string(path).map_err(Failure::io(format!("cannot read {path}")))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Failure::new(format!("{path} has no field {name}")))
}

/// Converts KiB to MiB.
fn mib(kib: u64) -> Outcome<f64> {
    let kib = u32::try_from(kib).map_err(|_wide| Failure::new("more than 4 TiB of memory"))?;
    Ok(f64::from(kib) / 1024.0)
}

/// Daemon and its guest. Dropping the value ends both.
struct DaxGuest {
    child: Child,
    asked: ChildStdin,
    said: BufReader<ChildStdout>,
    daemon: Serving,
}

impl DaxGuest {
    /// Starts a guest of a running daemon.
    fn start(daemon: Serving, share: &Path, seconds: f64) -> Outcome<Self> {
        let mut child = programs::generator("dax-guest")?
            .arg("--socket")
            .arg(daemon.socket())
            .args(["--file", FILE])
            .arg("--host-path")
            .arg(share.join(FILE))
            .arg(format!("--seconds={seconds}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Failure::io("cannot start the guest"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (asked, said) = pipes.ok_or_else(|| Failure::new("the guest has no standard input or output"))?;
        let mut guest = Self { child, asked, said: BufReader::new(said), daemon };
        guest.read_answer()?;
        Ok(guest)
    }

    /// Sends a command and returns the answer.
    fn ask(&mut self, word: &str) -> Outcome<String> {
        writeln!(self.asked, "{word}").map_err(Failure::io("cannot write to the guest"))?;
        self.read_answer()
    }

    /// Sends a command whose answer is one figure.
    fn number(&mut self, word: &str) -> Outcome<f64> {
        let said = self.ask(word)?;
        said.trim().parse().map_err(|_none| {
            Failure::new(format!("the guest answered `{said}` to {word}, expected a number"))
        })
    }

    /// Sends a command whose answer is two figures: with the window, and without.
    fn pair(&mut self, word: &str) -> Outcome<[f64; 2]> {
        let said = self.ask(word)?;
        let numbers: Vec<f64> = said.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        numbers.try_into().map_err(|_other| {
            Failure::new(format!("the guest answered `{said}` to {word}, expected two numbers"))
        })
    }

    /// Reads the next line of the guest.
    fn read_answer(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(Failure::io("cannot read from the guest"))?;
        if !line.is_empty() {
            return Ok(line);
        }
        let mut errors = String::new();
        if let Some(stderr) = self.child.stderr.as_mut() {
            stderr.read_to_string(&mut errors).map_err(Failure::io("cannot read the errors of the guest"))?;
        }
        Err(Failure::new(format!("the guest has ended: {}\n{}", errors.trim_end(), self.daemon.stderr())))
    }
}

impl Drop for DaxGuest {
    fn drop(&mut self) {
        // Ignore the result of kill: the process may have ended already. wait reaps it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
