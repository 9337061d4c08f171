//! Leases of host processes on files of a share (`F_SETLEASE` of fcntl(2)).
//!
//! perl takes them, because no safe call of Rust does. Every Debian has it.

use crate::daemon::DaemonError;
use crate::program::Program;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;

/// F_SETLEASE is 1024. The lease holder is told by SIGIO that another wants the file, and goes on
/// as before.
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

/// What a lease keeps others from doing before it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseKind {
    /// `F_RDLCK`: from opening the file to write, and from truncating it.
    Read,
    /// `F_WRLCK`: from opening it at all.
    Write,
}

/// A process of the host that has leases, and keeps them until this is given up.
#[derive(Debug)]
pub struct Leases(Program);

impl Leases {
    /// Takes one lease on each file.
    ///
    /// # Errors
    /// [`DaemonError`] where there is no perl (Debian's `perl-base` has it), or the host gives no
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

    /// Gives all of them up.
    ///
    /// # Errors
    /// [`DaemonError`] where the process does not end.
    pub fn give_up(mut self) -> Result<(), DaemonError> {
        self.0.end_by(Signal::KILL).map(drop)
    }
}
