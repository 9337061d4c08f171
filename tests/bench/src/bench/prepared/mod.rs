//! `cargo xtask bench --prepared`: measures prepared images, beside virtiofsd and pinhole on the
//! directory that an image was made of.
//!
//! | module | task |
//! |---|---|
//! | `images` | makes images; rows of the size and the time of `pinhole prepare` |
//! | `source` | directories and tar files that images are made of |
//! | `contest` | the daemons, and how their figures are compared |
//! | `wire` | requests at the socket |
//! | `guest` | programs in a guest, and the CPU time of the daemon |
//! | `memory` | memory for lookups, and of many daemons on one image |
//! | `start` | time to the ready line |
//! | `page` | the page with the results |

mod contest;
mod guest;
mod images;
mod memory;
mod page;
mod source;
mod start;
mod wire;

use super::aims::Bound;
use super::fresh;
use super::rows::Rows;
use crate::conditions::Conditions;
use crate::console::say;
use crate::needs::Need;
use crate::programs;
use crate::run_folder::RunFolder;
use crate::step::Outcome;
use crate::workspace;
use contest::PreparedBench;

/// What the measurements need.
pub(super) const NEEDS: &[Need] = &[Need::Base, Need::Userland, Need::Disks];

/// Aims for rows.
const AIMS: [(&str, Bound); 15] = [
    (images::METADATA, Bound::AtMost(100.0)),
    (images::TIME, Bound::AtMost(10.0)),
    (images::TIME_RATIO, Bound::AtMost(1.2)),
    ("wire: getattr at depth 32, of pinhole", Bound::AtLeast(1.5)),
    ("wire: lookup-hit at depth 32, of pinhole", Bound::AtLeast(1.5)),
    ("wire: readdirplus-20000 at depth 1, of virtiofsd", Bound::AtLeast(5.0)),
    ("guest: ls -lR of 100,000 files, of virtiofsd", Bound::AtLeast(1.3)),
    ("guest: ls -lR of 100,000 files, CPU of virtiofsd", Bound::AtMost(0.4)),
    ("guest: find in 100,000 files, of virtiofsd", Bound::AtLeast(1.3)),
    ("guest: find in 100,000 files, CPU of virtiofsd", Bound::AtMost(0.4)),
    ("guest: read 20,000 small files, of virtiofsd", Bound::AtLeast(1.3)),
    ("guest: read 20,000 small files, CPU of virtiofsd", Bound::AtMost(0.4)),
    (memory::LOOKUPS, Bound::AtMost(64.0)),
    (memory::MANY, Bound::AtMost(500.0)),
    (start::BEYOND, Bound::AtMost(20.0)),
];

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreparedRun {
    /// The only part to measure.
    pub(super) part: Option<PreparedPart>,
    /// Number of turns of each part, in place of its default.
    pub(super) turns: Option<u16>,
    /// Time for each row at the wire, in seconds.
    pub(super) seconds: f64,
    /// Whether to write the page.
    pub(super) write: bool,
}

/// Measures one part or all. `load` is the load average before the build.
pub(super) fn main(run: &PreparedRun, load: &str) -> Outcome {
    let run_folder = RunFolder::new()?;
    let program = programs::pinhole()?;
    let conditions = Conditions::of_run(&program, run_folder.path(), load);
    let folder = fresh::spread_folder(run_folder.path(), "prepared")?;
    say("creating the directory and its image");
    let source = source::create(&folder)?;
    let image = folder.join("source.erofs");
    images::prepare(&program, &source, &image)?;
    let bench = PreparedBench { program, folder, source, image, seconds: run.seconds };
    let mut rows = Rows::default();
    for part in run.part.map_or(PreparedPart::ALL.to_vec(), |part| vec![part]) {
        measure(&bench, part, usize::from(run.turns.unwrap_or(part.turns())), &mut rows)?;
    }
    say(format!("\n{}; {}; {}", conditions.date, conditions.host, conditions.versions));
    rows.show(&AIMS);
    if run.write { page::write(&rows.table(&AIMS), &conditions, &workspace::root()) } else { Ok(()) }
}

/// Part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum PreparedPart {
    /// Size of an image, and time of `pinhole prepare`
    Prepare,
    /// Requests at the socket
    Wire,
    /// Programs in a guest
    Guest,
    /// Memory of a daemon
    Memory,
    /// Start time of a daemon
    Start,
}

impl PreparedPart {
    const ALL: [Self; 5] = [Self::Prepare, Self::Wire, Self::Guest, Self::Memory, Self::Start];

    /// Returns the default number of turns. Slow parts get fewer.
    const fn turns(self) -> u16 {
        match self {
            Self::Wire | Self::Prepare => 5,
            Self::Guest | Self::Start => 3,
            Self::Memory => 1,
        }
    }
}

/// Measures a part in turns.
fn measure(bench: &PreparedBench, part: PreparedPart, turns: usize, rows: &mut Rows) -> Outcome {
    say(format!("{part:?}: {turns} turns"));
    match part {
        PreparedPart::Prepare => images::measure(&bench.program, &bench.folder, turns, rows),
        PreparedPart::Wire => (0..turns).try_for_each(|turn| wire::turn(bench, turn, rows)),
        PreparedPart::Guest => (0..turns).try_for_each(|turn| guest::turn(bench, turn, rows)),
        PreparedPart::Memory => (0..turns).try_for_each(|_turn| memory::turn(bench, rows)),
        PreparedPart::Start => start::measure(&bench.program, &bench.folder, turns, rows),
    }
}
