//! Rows of the memory that lookups take, and that many daemons on one image take.

use pinhole_tests::daemon::{Daemon, Serving};

use super::contest::{PreparedBench, ShareServer};
use crate::bench::cost::holder::Holder;
use crate::bench::cost::number;
use crate::bench::cost::processes::holdings;
use crate::bench::rows::Rows;
use crate::step::{Failure, Outcome};

/// Row of the memory that lookups take.
pub(super) const LOOKUPS: &str = "memory: added by 100,000 lookups, prepared, KiB";

/// Row of the memory of one of many daemons.
pub(super) const MANY: &str = "memory: each of 200 daemons with its guest, kB";

/// Number of lookups.
const LOOKUP_COUNT: u32 = 100_000;

/// Number of daemons at the same time.
const DAEMONS: u32 = 200;

/// Bytes of the unit of /proc, and of the unit in [`MANY`].
const KIB_KB: f64 = 1.024;

/// Measures all rows once.
pub(super) fn turn(bench: &PreparedBench, rows: &mut Rows) -> Outcome {
    for (server, row) in [
        (ShareServer::Prepared, LOOKUPS),
        (ShareServer::Directory, "memory: added by 100,000 lookups, pinhole, KiB"),
    ] {
        rows.add(row, lookups_kib(bench, server)?);
    }
    many(bench, rows)
}

/// Returns the anonymous memory that a daemon takes while its guest looks up files, in KiB.
fn lookups_kib(bench: &PreparedBench, server: ShareServer) -> Outcome<f64> {
    let serving = bench.start(server, &[])?;
    let mut guest = Holder::connect(serving.socket(), &bench.source, LOOKUP_COUNT)?;
    let before = holdings(&[serving.id()])?.anonymous_kib;
    guest.learn()?;
    let after = holdings(&[serving.id()])?.anonymous_kib;
    number(after.saturating_sub(before))
}

/// Measures many daemons on the image of the userland, each with a guest that has listed it.
fn many(bench: &PreparedBench, rows: &mut Rows) -> Outcome {
    let image = super::images::userland(&bench.program, &bench.folder)?;
    let start = || -> Outcome<Serving> {
        let daemon = Daemon::of_image_at(&bench.program, &image).start();
        daemon.map_err(|error| Failure::new(error.to_string()))
    };
    let serving = (0..DAEMONS).map(|_| start()).collect::<Outcome<Vec<_>>>()?;
    let processes: Vec<u32> = serving.iter().map(Serving::id).collect();
    let waiting = holdings(&processes)?;
    let mut guests = Vec::new();
    for daemon in &serving {
        let mut guest = Holder::listing(daemon.socket())?;
        guest.learn()?;
        guests.push(guest);
    }
    let listed = holdings(&processes)?;
    drop(guests);
    let each = |kib: u64| Ok::<_, Failure>(number(kib)? * KIB_KB / f64::from(DAEMONS));
    rows.add("memory: each of 200 daemons without a guest, kB", each(waiting.pss_kib)?);
    rows.add(MANY, each(listed.pss_kib)?);
    rows.add("memory: each of 200 daemons with its guest, without files, kB", each(listed.anonymous_kib)?);
    Ok(())
}
