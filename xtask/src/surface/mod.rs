//! `cargo xtask surface`: measures how much of the host a daemon may reach, and how much it does
//! reach. The same load runs against pinhole in each profile and against virtiofsd.
//!
//! | module | task |
//! |---|---|
//! | `subject` | names the daemons and starts them |
//! | `native` | runs a daemon on this machine under strace and inspects its process |
//! | `strace` | reads the output of strace |
//! | `filter` | evaluates the seccomp filters in that output |
//! | `names` | reads numbers and names from kernel headers |
//! | `kernel` | counts kernel functions in a QEMU guest |
//! | `code` | counts the lines of our code before the policy check |
//! | `report`, `page` | show the results |

mod code;
mod filter;
mod kernel;
mod names;
mod native;
mod page;
mod report;
mod strace;
mod subject;

use std::path::PathBuf;

use crate::bench::machine::{self, Machine};
use crate::bench::place::Place;
use crate::console::say;
use crate::guest::{Part as Piece, ensure, ensure_program};
use crate::step::{Failure, Outcome, run};
use crate::workspace;
use names::Names;
use report::{Report, Seen};
use subject::Programs;

/// Selects the measurements and the output.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write docs/surface.md and its chart
    #[arg(long, conflicts_with = "native")]
    write: bool,
    /// Write all results with all names to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Skip the count of kernel functions, which needs a QEMU guest and most of the time
    #[arg(long)]
    native: bool,
}

pub(crate) fn main(arguments: &Arguments) -> Outcome {
    ensure(if arguments.native { &[Piece::Base] } else { &[Piece::Base, Piece::Qemu, Piece::Userland] })?;
    ensure_program("strace")?;
    // First, because it is quick and fails if a list of files is out of date.
    let lines = code::lines(&workspace::root())?;
    let load = machine::load();
    let programs = build()?;
    let place = Place::new()?;
    let machine = Machine::here(&programs.pinhole, place.folder(), &load);
    let names = Names::read()?;
    let mut daemons = Vec::new();
    for subject in subject::ALL {
        say(format!("measuring {} under strace", subject.name));
        let native = native::measure(subject, &programs, &names, place.folder())?;
        daemons.push(Seen { subject, native, reached: None });
    }
    if !arguments.native {
        say("counting kernel functions of all daemons in a QEMU guest");
        for ((_, reached), seen) in kernel::measure(&programs)?.into_iter().zip(&mut daemons) {
            seen.reached = Some(reached);
        }
    }
    show(&Report { machine, daemons, lines }, arguments)
}

/// Builds with the profile `demo`: the same system calls as a release build, in half the build
/// time.
fn build() -> Outcome<Programs> {
    say("building pinhole and the load");
    let words =
        ["build", "--profile", "demo", "--quiet", "--package", "pinhole", "--package", "pinhole-tests"];
    run(workspace::cargo().args(words).args(["--bin", "pinhole", "--bin", "surface"]))?;
    let folder = workspace::target().join("demo");
    Ok(Programs { pinhole: folder.join("pinhole"), surface: folder.join("surface") })
}

fn show(report: &Report, arguments: &Arguments) -> Outcome {
    say(format!("\n{}; {}; {}", report.machine.date, report.machine.words, report.machine.versions));
    let tables = [("figures", report.table()), ("threads", report.threads()), ("aims", report.aims_table())];
    for (title, table) in tables {
        say(format!("\n== {title}\n{}", table.plain()));
    }
    let aims = report.aims();
    let met = aims.iter().filter(|aim| aim.is_met()).count();
    say(format!("aims: {met} of {} met", aims.len()));
    if let Some(file) = &arguments.json {
        std::fs::write(file, format!("{:#}\n", report.json()))
            .map_err(Failure::io(format!("cannot write {}", file.display())))?;
    }
    if arguments.write { page::write(report, &workspace::root()) } else { Ok(()) }
}
