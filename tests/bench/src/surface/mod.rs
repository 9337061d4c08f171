//! `cargo xtask surface`: measures how much of the host a daemon may reach, and how much it does
//! reach. The same load runs against pinhole in each profile and against virtiofsd.
//!
//! | module | task |
//! |---|---|
//! | `subject` | names the daemons and starts them |
//! | `native` | runs a daemon on this host under strace and inspects its process |
//! | `strace` | reads the output of strace |
//! | `filter` | evaluates the seccomp filters in that output |
//! | `names` | reads numbers and names from kernel headers |
//! | `kernel` | counts kernel functions in a QEMU guest |
//! | `player`, `functions` | act as the guest, and trace the kernel functions |
//! | `report`, `page` | show the results |

mod filter;
mod functions;
mod kernel;
mod names;
mod native;
mod page;
pub(crate) mod player;
mod report;
mod strace;
mod subject;

use std::path::PathBuf;

use crate::conditions::Conditions;
use crate::console::say;
use crate::needs::Need;
use crate::programs;
use crate::run_folder::RunFolder;
use crate::step::{Failure, Outcome};
use crate::workspace;
use names::Names;
use report::{DaemonResults, SurfaceReport};
use subject::SurfacePrograms;

/// Selects the measurements and the output.
#[derive(Debug, clap::Args)]
pub(crate) struct SurfaceArguments {
    /// Write docs/measured/surface.md and its chart
    #[arg(long, conflicts_with = "native")]
    write: bool,
    /// Write all results with all names to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Skip the count of kernel functions, which needs a QEMU guest and most of the time
    #[arg(long)]
    native: bool,
}

impl SurfaceArguments {
    /// Returns what the selected measurements need.
    pub(crate) fn needs(&self) -> &'static [Need] {
        if self.native {
            &[Need::Base, Need::Strace]
        } else {
            &[Need::Base, Need::Qemu, Need::Userland, Need::Strace]
        }
    }
}

/// Runs the selected measurements. `load` is the load average before the build.
pub(crate) fn main(arguments: &SurfaceArguments, load: &str) -> Outcome {
    let programs = SurfacePrograms { pinhole: programs::pinhole()?, bench: programs::own()? };
    let run_folder = RunFolder::new()?;
    let conditions = Conditions::of_run(&programs.pinhole, run_folder.path(), load);
    let names = Names::read()?;
    let mut daemons = Vec::new();
    for subject in subject::ALL {
        say(format!("measuring {} under strace", subject.name));
        let native = native::measure(subject, &programs, &names, run_folder.path())?;
        daemons.push(DaemonResults { subject, native, reached: None });
    }
    if !arguments.native {
        say("counting kernel functions of all daemons in a QEMU guest");
        for ((_, reached), seen) in kernel::measure(&programs)?.into_iter().zip(&mut daemons) {
            seen.reached = Some(reached);
        }
    }
    show(&SurfaceReport { conditions, daemons }, arguments)
}

/// Prints the tables, and writes the JSON file and the page if they are wanted.
fn show(report: &SurfaceReport, arguments: &SurfaceArguments) -> Outcome {
    say(format!("\n{}; {}; {}", report.conditions.date, report.conditions.host, report.conditions.versions));
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
