//! `cargo xtask crash --rate`: how many crash states are built, mounted and read in a second?

use std::time::{Duration, Instant};

use pinhole_tests::command::console::say;
use pinhole_tests::command::step::{Failure, Outcome};
use pinhole_tests::disk_faults::FileSystem;

use crate::args::CrashArguments;
use crate::disk::states::Bounds;
use crate::drive::subject::Subject;
use crate::host::{Host, Rate};
use crate::program::Program;

/// Program with several flushes and unflushed writes.
const PROGRAM: &str =
    "write a 0 8192 o; run; write a 0 4096 x; fsync a; rename a b; write c 0 4096 y; fsync .";

/// Number of times that a thread plays the program on one disk.
const TIMES: usize = 32;

/// Time for which each file system is measured.
const TIME: Duration = Duration::from_secs(4);

/// Measures each file system and prints a line for it.
///
/// # Errors
/// Fails without root, loop devices, or the part `disks`.
pub(crate) fn main(arguments: &CrashArguments) -> Outcome {
    let program: Program = PROGRAM.parse().map_err(|error| Failure::new(format!("{error}")))?;
    let programs = vec![program; TIMES];
    let threads = arguments.threads();
    for kind in arguments.fs.iter().map(|kind| kind.file_system()) {
        let counted = std::thread::scope(|scope| {
            let measured =
                (0..threads).map(|_thread| scope.spawn(|| measure(kind, &programs, arguments.bounds())));
            let measured: Vec<_> = measured.collect();
            measured.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let (mut states, mut rate) = (0, 0.0);
        for counted in counted {
            let counted = counted.map_err(|_panic| Failure::new("a thread has panicked"))??;
            states += counted.states;
            rate += f64::from(u32::try_from(counted.states).unwrap_or(u32::MAX)) / counted.took.as_secs_f64();
        }
        say(format!(
            "{}: {rate:.0} crash states per second ({threads} threads, {states} states)",
            kind.name()
        ));
    }
    Ok(())
}

/// Checks crash states in this thread until the time is over.
fn measure(kind: FileSystem, programs: &[Program], bounds: Bounds) -> Outcome<Rate> {
    let failed = |what: &str| Failure::io(format!("{what} on {}", kind.name()));
    let mut host = Host::new(kind).map_err(failed("cannot prepare"))?;
    let began = Instant::now();
    let mut all = Rate::default();
    while began.elapsed() < TIME {
        host.run(&Subject::Native, programs, bounds).map_err(failed("cannot play"))?;
        let rate = host.take_rate();
        all.states += rate.states;
        all.took += rate.took;
    }
    Ok(all)
}
