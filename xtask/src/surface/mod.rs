//! `cargo xtask surface`: the size of the hole. One fixed load against pinhole in each profile and against virtiofsd;
//! how much of the host each may ask for, and how much it does.
//!
//! `subject` names who is looked at; `native` starts each on this machine under strace and looks at its process
//! (`strace` reads the output, `filter` the filters in it, `names` has the kernel's numbers); `kernel` counts functions
//! of the kernel in a QEMU guest; `code` counts our own lines before the gate. `report` and `page` show what came of it.

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

/// What to look at, and where to put it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write docs/surface.md and its chart anew
    #[arg(long, conflicts_with = "native")]
    write: bool,
    /// Everything, names included, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave out the guest that plays the host, which takes most of the time
    #[arg(long)]
    native: bool,
}

pub(crate) fn main(arguments: &Arguments) -> Outcome {
    ensure(if arguments.native { &[Piece::Base] } else { &[Piece::Base, Piece::Qemu, Piece::Userland] })?;
    ensure_program("strace")?;
    // First of all, since it is quick and may say that a list is out of date.
    let lines = code::lines(&workspace::root())?;
    let load = machine::load();
    let programs = build()?;
    let place = Place::new()?;
    let machine = Machine::here(&programs.pinhole, place.folder(), &load);
    let names = Names::read()?;
    let mut daemons = Vec::new();
    for subject in subject::ALL {
        say(format!("{}, under strace", subject.name));
        let native = native::measure(subject, &programs, &names, place.folder())?;
        daemons.push(Seen { subject, native, reached: None });
    }
    if !arguments.native {
        say("all of them in a guest that plays the host");
        for ((_, reached), seen) in kernel::measure(&programs)?.into_iter().zip(&mut daemons) {
            seen.reached = Some(reached);
        }
    }
    show(&Report { machine, daemons, lines }, arguments)
}

/// The release code without the last tenth, which changes no system call, in half the time.
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
