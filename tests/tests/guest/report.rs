//! Results of cases in a guest: its output, split at the marks that the scripts print, and compared
//! between places.

use std::collections::BTreeMap;
use std::time::Duration;

use pinhole_tests::daemon::Serving;
use pinhole_tests::guest::{Finished, GuestError};

/// Upper bound on the time until a daemon ends after its guest.
const DAEMON_END: Duration = Duration::from_secs(10);

/// Permitted difference between a share and a local directory in one case.
#[derive(Debug)]
pub(crate) struct Difference {
    /// Tags of the shares.
    pub(crate) places: &'static [&'static str],
    /// Name of the case.
    pub(crate) case: &'static str,
    /// Lines that the case may print on the share in place of other ones.
    pub(crate) share: &'static [&'static str],
    /// Whether the case ends after such a line, so that the rest is not compared.
    pub(crate) ends_early: bool,
}

/// Results of one boot of a guest.
#[derive(Debug)]
pub(crate) struct Report {
    /// Printed lines, by place and case.
    sections: BTreeMap<(String, String), Vec<String>>,
    /// End of the guest, for the message of a case that did not run.
    pub(crate) ended: String,
    /// Name, exit and standard error of each daemon.
    pub(crate) daemons: Vec<(String, String, String)>,
}

impl Report {
    /// Reads the results of a guest and waits for the end of its daemons.
    pub(crate) fn new(outcome: Result<Finished, GuestError>, daemons: Vec<(&str, Serving)>) -> Self {
        let (output, ended) = match outcome {
            Ok(finished) => {
                let last = finished.text();
                let last: Vec<_> = last.lines().rev().take(5).collect();
                let ended = format!("exit code {}, last lines {last:?}", finished.exit_code);
                (finished.text(), ended)
            }
            Err(GuestError::TimeLimit { output, kernel_log, limit }) => {
                (output, format!("killed after {limit:?}\n{kernel_log}"))
            }
            Err(other) => (String::new(), other.to_string()),
        };
        let daemons = daemons
            .into_iter()
            .map(|(name, mut daemon)| {
                let ended = match daemon.wait_at_most(DAEMON_END) {
                    Ok(Some(status)) => status.to_string(),
                    Ok(None) => "still running".to_owned(),
                    Err(error) => error.to_string(),
                };
                (name.to_owned(), ended, daemon.stderr())
            })
            .collect();
        Self { sections: sections(&output), ended, daemons }
    }

    /// Returns the lines of one case at one place.
    pub(crate) fn lines(&self, place: &str, case: &str) -> &[String] {
        match self.sections.get(&(place.to_owned(), case.to_owned())) {
            Some(lines) => lines,
            None => panic!("the guest never got to the end of `{case}` on {place}: {}", self.ended),
        }
    }

    /// Returns the names of the cases that ran at a place.
    pub(crate) fn cases(&self, place: &str) -> Vec<&str> {
        self.sections.keys().filter(|(at, _)| at == place).map(|(_, case)| case.as_str()).collect()
    }

    /// Returns descriptions of the differences of a case between `place` and `reference`, without
    /// the `allowed` ones.
    pub(crate) fn differences(
        &self,
        case: &str,
        place: &str,
        reference: &str,
        allowed: &[Difference],
    ) -> Vec<String> {
        let (here, there) = (self.lines(place, case), self.lines(reference, case));
        let mut found = Vec::new();
        for index in 0..here.len().max(there.len()) {
            let (seen, expected) = (here.get(index), there.get(index));
            if let Some(line) =
                seen.filter(|line| line.starts_with("raised") || line.starts_with("child ended"))
            {
                found.push(format!("{case} on {place}: {line}\n{}", here[index..].join("\n")));
                break;
            }
            if seen == expected {
                continue;
            }
            let is_known = |entry: &&Difference| {
                entry.places.contains(&place)
                    && entry.case == case
                    && seen.is_some_and(|line| entry.share.contains(&line.as_str()))
            };
            match allowed.iter().find(is_known) {
                Some(Difference { ends_early: true, .. }) => break,
                Some(_) => {}
                None => found.push(format!("{case} on {place}: {seen:?}, on {reference}: {expected:?}")),
            }
        }
        found
    }
}

/// Parses sections `@ PLACE CASE`, lines, `@ end`. A section without its end is left out.
fn sections(output: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut sections = BTreeMap::new();
    let mut open: Option<((String, String), Vec<String>)> = None;
    for line in output.lines() {
        match line.strip_prefix("@ ") {
            Some("end") => sections.extend(open.take()),
            Some(title) => {
                let (place, case) = title.split_once(' ').unwrap_or((title, ""));
                open = Some(((place.to_owned(), case.to_owned()), Vec::new()));
            }
            None => {
                if let Some((_, lines)) = &mut open {
                    lines.push(line.to_owned());
                }
            }
        }
    }
    sections
}

#[test]
fn a_section_without_its_end_is_not_reported() {
    let found = sections("noise\n@ a one\nx\ny\n@ end\n@ a two\nz\n");
    assert_eq!(found.len(), 1);
    assert_eq!(found[&("a".to_owned(), "one".to_owned())], ["x", "y"]);
}
