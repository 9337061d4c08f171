//! Leases of host processes on files of a share (`F_SETLEASE` of fcntl(2)).
//!
//! perl takes the leases, because Rust has no safe call for it. Every Debian has perl.

use crate::daemon::DaemonError;
use crate::program::Program;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;

/// Script that takes leases. F_SETLEASE is 1024. SIGIO tells the lease holder that another process
/// wants the file; the script ignores it.
const TAKE: &str = r#"
    $SIG{IO} = "IGNORE";
    my ($kind, @files) = @ARGV;
    my @held;
    for my $file (@files) {
        open(my $handle, $kind ? "+<" : "<", $file) or die "$file: $!";
        fcntl($handle, 1024, 0 + $kind) or die "no lease on $file: $!";
        push @held, $handle;
    }
    print STDERR "leased\n";
    sleep;
"#;

/// Operations of other processes that a lease blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseKind {
    /// `F_RDLCK`: opens for writing, and truncations.
    Read,
    /// `F_WRLCK`: all opens.
    Write,
}

/// Host process that holds leases until this value is given up.
#[derive(Debug)]
pub struct Leases(Program);

impl Leases {
    /// Takes one lease on each file.
    ///
    /// # Errors
    /// [`DaemonError`] if perl is missing (Debian's `perl-base` has it), or if the host refuses a
    /// lease.
    pub fn take<'f>(kind: LeaseKind, files: impl IntoIterator<Item = &'f Path>) -> Result<Self, DaemonError> {
        let number = match kind {
            LeaseKind::Read => "0",
            LeaseKind::Write => "1",
        };
        let mut command = Command::new("perl");
        command.args(["-e", TAKE, number]).args(files);
        let mut holder = Program::start(&mut command)?;
        holder.wait_for("leased")?;
        Ok(Self(holder))
    }

    /// Gives up all leases.
    ///
    /// # Errors
    /// [`DaemonError`] if the process does not end.
    pub fn give_up(mut self) -> Result<(), DaemonError> {
        self.0.end_by(Signal::KILL).map(drop)
    }
}
