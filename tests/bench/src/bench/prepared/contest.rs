//! Contestants of the rows with requests, and the comparison of their figures.

use std::path::PathBuf;

use pinhole_tests::daemon::{Daemon, Serving};

use crate::bench::figure::{CACHE_ALWAYS, VirtiofsdSetting};
use crate::bench::rows::Rows;
use crate::bench::samples::Spread;
use crate::step::{Failure, Outcome};

/// Contestant of the rows with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShareServer {
    /// pinhole with the prepared image.
    Prepared,
    /// pinhole with the directory.
    Directory,
    /// virtiofsd with the directory.
    Virtiofsd(VirtiofsdSetting),
    /// virtiofsd with the directory, its best setting, and extended attributes.
    VirtiofsdWithXattr,
}

/// Figures of a server in one turn.
pub(super) type TurnFigures = Vec<(ShareServer, f64)>;

/// Programs and files of a run.
pub(super) struct PreparedBench {
    pub(super) program: PathBuf,
    /// The folder of the run.
    pub(super) folder: PathBuf,
    /// The directory that requests go to.
    pub(super) source: PathBuf,
    /// The image of that directory.
    pub(super) image: PathBuf,
    /// Time for each row at the wire, in seconds.
    pub(super) seconds: f64,
}

impl PreparedBench {
    /// Starts a server with `arguments`, which all of them must accept.
    pub(super) fn start(&self, server: ShareServer, arguments: &[&str]) -> Outcome<Serving> {
        let daemon = match server {
            ShareServer::Prepared => Daemon::of_image_at(&self.program, &self.image),
            ShareServer::Directory => Daemon::pinhole_at(&self.program, &self.source),
            ShareServer::Virtiofsd(setting) => self.virtiofsd(setting)?,
            ShareServer::VirtiofsdWithXattr => self.virtiofsd(CACHE_ALWAYS)?.argument("--xattr"),
        };
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument));
        daemon.start().map_err(|error| Failure::new(error.to_string()))
    }

    /// Returns virtiofsd with the directory.
    fn virtiofsd(&self, setting: VirtiofsdSetting) -> Outcome<Daemon> {
        let daemon = Daemon::virtiofsd_sandboxed(&self.source);
        Ok(daemon
            .map_err(|error| Failure::new(error.to_string()))?
            .argument(format!("--thread-pool-size={}", setting.pool))
            .argument(format!("--cache={}", setting.cache)))
    }
}

/// Returns the servers with another one first in each turn, because the first finds colder caches.
pub(super) fn in_turn(servers: &[ShareServer], turn: usize) -> Vec<ShareServer> {
    let mut servers = servers.to_vec();
    let first = turn % servers.len().max(1);
    servers.rotate_left(first);
    servers
}

/// Adds the rows of a figure in one turn: the figure of each server, and the ratios of the prepared
/// image to the others. Of several settings of virtiofsd, the best of this turn counts. `what`
/// names the figure in the rows of ratios.
pub(super) fn add_turn(rows: &mut Rows, row: &str, what: Measure, figures: &TurnFigures) {
    let spread = |wanted: fn(ShareServer) -> bool| {
        Spread::of(figures.iter().filter(|(server, _)| wanted(*server)).map(|(_, figure)| *figure))
    };
    let best = |spread: Spread| if what.is_higher_better() { spread.max } else { spread.min };
    let prepared = spread(|server| server == ShareServer::Prepared).map(best);
    let directory = spread(|server| server == ShareServer::Directory).map(best);
    let virtiofsd = spread(|server| matches!(server, ShareServer::Virtiofsd(_))).map(best);
    let with_xattr = spread(|server| server == ShareServer::VirtiofsdWithXattr).map(best);
    let names = [
        ("prepared", prepared),
        ("pinhole", directory),
        ("virtiofsd", virtiofsd),
        ("virtiofsd --xattr", with_xattr),
    ];
    for (name, figure) in names {
        if let Some(figure) = figure {
            rows.add(&format!("{row}, {name}, {}", what.unit()), figure);
        }
    }
    for (name, figure) in names.into_iter().skip(1) {
        if let (Some(own), Some(other)) = (prepared, figure)
            && other > 0.0
        {
            rows.add(&format!("{row}, {}of {name}", what.prefix()), own / other);
        }
    }
}

/// What a figure measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Operations a second.
    Operations,
    /// Files a second.
    Files,
    /// CPU time of the daemon, in ms.
    Cpu,
}

impl Measure {
    const fn is_higher_better(self) -> bool {
        !matches!(self, Self::Cpu)
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Operations => "op/s",
            Self::Files => "file/s",
            Self::Cpu => "ms of CPU",
        }
    }

    /// Returns the words before "of" in the name of a ratio.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Operations | Self::Files => "",
            Self::Cpu => "CPU ",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: ShareServer = ShareServer::Virtiofsd(VirtiofsdSetting { pool: 0, cache: "auto" });
    const ALWAYS: ShareServer = ShareServer::Virtiofsd(VirtiofsdSetting { pool: 0, cache: "always" });

    fn median(rows: &Rows, row: &str) -> Option<f64> {
        rows.median(row)
    }

    #[test]
    fn best_setting_of_the_peer_counts_in_each_turn() {
        let mut rows = Rows::default();
        let figures =
            vec![(AUTO, 2.0), (ShareServer::Prepared, 6.0), (ALWAYS, 3.0), (ShareServer::Directory, 4.0)];
        add_turn(&mut rows, "row", Measure::Files, &figures);
        add_turn(&mut rows, "row", Measure::Cpu, &figures);
        assert_eq!(median(&rows, "row, of virtiofsd"), Some(2.0));
        assert_eq!(median(&rows, "row, of pinhole"), Some(1.5));
        assert_eq!(median(&rows, "row, CPU of virtiofsd"), Some(3.0));
        assert_eq!(median(&rows, "row, virtiofsd, ms of CPU"), Some(2.0));
    }

    #[test]
    fn row_without_a_peer_has_no_ratio_to_it() {
        let mut rows = Rows::default();
        add_turn(&mut rows, "row", Measure::Operations, &vec![(ShareServer::Prepared, 6.0), (AUTO, 0.0)]);
        assert_eq!(median(&rows, "row, of pinhole"), None);
        assert_eq!(median(&rows, "row, of virtiofsd"), None);
        assert_eq!(median(&rows, "row, prepared, op/s"), Some(6.0));
    }

    #[test]
    fn each_turn_starts_with_another_server() {
        let servers = [ShareServer::Prepared, ShareServer::Directory, AUTO];
        assert_eq!(in_turn(&servers, 4), [ShareServer::Directory, AUTO, ShareServer::Prepared]);
    }
}
