//! `cargo xtask bench --locks`: measures the cost of locks on the host.
//!
//! The command `lock-guests` of this program (`guests`) acts as two guests, each with its own
//! daemon. A User-mode Linux guest times its own calls with `locks.py`. Lock times are compared
//! with the cheapest request, GETATTR.

pub(crate) mod guests;

use std::fs;
use std::time::Duration;

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::guest::Guest;

use super::aims::Bound;
use super::rows::Rows;
use crate::conditions::Conditions;
use crate::console::say;
use crate::programs;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome};

/// Name of the locked file.
const FILE: &str = "file";

/// Aims for rows.
const AIMS: [(&str, Bound); 3] = [
    ("guest: lock and unlock, of two fstats", Bound::AtMost(1.5)),
    ("wire: lock and unlock, of two GETATTRs", Bound::AtMost(1.5)),
    ("wire: from daemon to daemon, median, us", Bound::AtMost(2000.0)),
];

/// Measures in `turns` turns. `load` is the load average before the build.
pub(crate) fn main(turns: u16, load: &str) -> Outcome {
    let run_folder = RunFolder::new()?;
    let program = programs::pinhole()?;
    let conditions = Conditions::of_run(&program, run_folder.path(), load);
    let share = run_folder.path().join("locks");
    fs::create_dir_all(&share).map_err(Failure::io("cannot create the share"))?;
    fs::write(share.join(FILE), [0; 4096]).map_err(Failure::io("cannot create the file"))?;
    let daemon = || -> Outcome<Serving> {
        let daemon = Daemon::pinhole_at(&program, &share).argument("--cache=strict").argument("--tag=bench");
        daemon.start().map_err(|error| Failure::new(error.to_string()))
    };
    let mut rows = Rows::default();
    for turn in 1..=turns {
        say(format!("turn {turn} of {turns}"));
        wire([&daemon()?, &daemon()?], &mut rows)?;
        guest(&daemon()?, &mut rows)?;
    }
    say(format!("\n{}; {}; turns: {turns}", conditions.date, conditions.host));
    rows.show(&AIMS);
    Ok(())
}

/// Measures with two guests at the sockets of two daemons.
fn wire(daemons: [&Serving; 2], rows: &mut Rows) -> Outcome {
    let mut command = programs::generator("lock-guests")?;
    command.args(["--file", FILE]);
    for daemon in daemons {
        command.arg("--socket").arg(daemon.socket());
    }
    let done = command.output().map_err(Failure::io("cannot start the guest program"))?;
    if !done.status.success() {
        return Err(Failure::new(format!(
            "the guest program failed: {}",
            String::from_utf8_lossy(&done.stderr)
        )));
    }
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let figure = |name: &str| {
        let mut lines = said.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find_map(|(known, figure)| (known == name).then(|| figure.parse::<f64>().ok())?);
        found.ok_or_else(|| Failure::new(format!("the guest program printed no {name}:\n{said}")))
    };
    let (lock, stat) = (figure("lock-and-unlock")?, figure("two-getattrs")?);
    rows.add("wire: lock and unlock, us", lock);
    rows.add("wire: two GETATTRs, us", stat);
    rows.add("wire: lock and unlock, of two GETATTRs", lock / stat);
    rows.add("wire: from daemon to daemon, median, us", figure("hand-over-median")?);
    rows.add("wire: from daemon to daemon, p99, us", figure("hand-over-p99")?);
    Ok(())
}

/// Measures in a User-mode Linux guest.
fn guest(daemon: &Serving, rows: &mut Rows) -> Outcome {
    let finished = Guest::uml()
        .userland()
        .memory_mib(512)
        .limit(Duration::from_mins(2))
        .share(daemon.socket(), "bench")
        .file("locks.py", 0o644, include_bytes!("locks.py"))
        .run(&format!("python3 /extra/locks.py /mnt/bench/{FILE}"))
        .map_err(|error| Failure::new(format!("{error}\ndaemon:\n{}", daemon.stderr())))?;
    if finished.exit_code != 0 {
        return Err(Failure::new(format!(
            "locks.py ended with {}:\n{}",
            finished.exit_code,
            finished.text()
        )));
    }
    let text = finished.text();
    let pairs = text.lines().filter_map(|line| line.trim().split_once(' '));
    let pairs = pairs.filter_map(|(lock, stat)| Some((lock.parse::<f64>().ok()?, stat.parse::<f64>().ok()?)));
    for (lock, stat) in pairs {
        rows.add("guest: lock and unlock, us", lock);
        rows.add("guest: two fstats, us", stat);
        rows.add("guest: lock and unlock, of two fstats", lock / stat);
    }
    Ok(())
}
