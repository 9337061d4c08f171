//! Guests, each with its own daemon on one directory, and a process of the host.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::fault::Fault;
use super::guest_program::{Answer, GuestProgram};
use super::program::program;
use super::settings;
use super::subject::Subject;
use crate::daemon::Serving;
use crate::guest::{Guest, Parts, Running};

/// Tag of the share in every guest.
const TAG: &str = "shared";

/// Upper bound on one step of a sequence of steps.
const STEP_LIMIT: Duration = Duration::from_secs(90);

/// Upper bound on the boot of a guest up to its first output.
const BOOT_LIMIT: Duration = Duration::from_mins(3);

/// Upper bound on the run of a guest: all questions, even with many turns.
const GUEST_LIMIT: Duration = Duration::from_hours(1);

/// Memory of a guest. With half of it, programs got ENOMEM from the guest's kernel, with either
/// daemon.
const GUEST_MEMORY_MIB: u32 = 512;

/// Time for which databases are written by default, in seconds.
const SECONDS: u32 = 4;

/// A guest or the host process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Participant {
    /// Guest of this number, counted from 0.
    Guest(usize),
    /// Process of the host.
    Host,
}

/// First guest.
pub(super) const A: Participant = Participant::Guest(0);
/// Second guest.
pub(super) const B: Participant = Participant::Guest(1);
/// Process of the host.
pub(super) const H: Participant = Participant::Host;

/// Guests, daemons and the host process. They are started again after a question that has left them
/// unusable.
#[derive(Debug)]
pub struct Participants {
    /// Program of pinhole.
    pinhole: PathBuf,
    subject: Subject,
    guests: usize,
    /// Seconds for which databases are written.
    seconds: u32,
    started: Option<RunningParticipants>,
    /// Name of the current question.
    name: &'static str,
}

/// Running guests, daemons and host process. Guests are dropped first, then daemons.
#[derive(Debug)]
struct RunningParticipants {
    guests: Vec<GuestProgram>,
    running: Vec<Option<Running>>,
    host: HostProcess,
    daemons: Vec<Serving>,
    shared: TempDir,
    _program: TempDir,
}

/// Running process of the host, in its own process group. `drop` kills the group.
#[derive(Debug)]
struct HostProcess {
    child: Child,
    program: GuestProgram,
    _work: TempDir,
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        // Kill the group: a program may wait for a lock that is never released.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap_or_default();
        }
        drop(self.child.wait());
    }
}

impl Participants {
    /// Describes this number of guests and a host process. The first question starts them.
    /// `pinhole` is the program of pinhole.
    pub fn new(pinhole: impl Into<PathBuf>, subject: Subject, guests: usize) -> Self {
        Self { pinhole: pinhole.into(), subject, guests, seconds: SECONDS, started: None, name: "" }
    }

    /// Sets for how many seconds databases are written, unless `PINHOLE_SHARING_SECONDS` is set.
    #[must_use]
    pub fn databases_for(self, seconds: u32) -> Self {
        Self { seconds, ..self }
    }

    /// Calls `answer` after all programs have entered the new folder `name` of the share. Starts
    /// the participants first, if none run.
    pub(super) fn answer(
        &mut self,
        name: &'static str,
        answer: fn(&mut Self) -> Result<String, Fault>,
    ) -> Result<String, Fault> {
        if self.started.is_none() {
            self.started = Some(start_all(&self.pinhole, self.subject, self.guests)?);
        }
        self.name = name;
        let outcome = self.enter().and_then(|()| answer(self));
        let gone = |participants: &RunningParticipants| participants.running.iter().any(Option::is_none);
        if matches!(outcome, Err(Fault::Silent { .. })) || self.started.as_ref().is_some_and(gone) {
            self.started = None;
        }
        outcome
    }

    /// Lets all programs enter the folder of the question, which the host has made.
    fn enter(&mut self) -> Result<(), Fault> {
        let name = self.name;
        let place = self.folder()?;
        fs::create_dir(&place).map_err(Fault::host("cannot make the question's folder"))?;
        for guest in 0..self.guests {
            self.step(Participant::Guest(guest), &format!("cd /mnt/{TAG}/{name}"), "ok")?;
        }
        self.step(Participant::Host, &format!("cd {}", place.display()), "ok")
    }

    /// Returns the subject.
    pub(super) fn subject(&self) -> Subject {
        self.subject
    }

    /// Returns for how many seconds databases are written.
    pub(super) fn seconds(&self) -> u32 {
        settings::seconds().unwrap_or(self.seconds)
    }

    /// Returns the number of participants: the guests and the host process.
    pub(super) fn count(&self) -> usize {
        self.guests + 1
    }

    /// Returns the folder of the question on the host.
    pub(super) fn folder(&self) -> Result<PathBuf, Fault> {
        Ok(self.running_participants()?.shared.path().join(self.name))
    }

    fn running_participants(&self) -> Result<&RunningParticipants, Fault> {
        self.started.as_ref().ok_or_else(|| Fault::Wrong("the participants have not been started".to_owned()))
    }

    /// Returns the running program of a participant.
    fn program(&mut self, who: Participant) -> Result<&mut GuestProgram, Fault> {
        let missing = || Fault::Wrong(format!("{who:?} is not a participant"));
        let participants = self.started.as_mut().ok_or_else(missing)?;
        match who {
            Participant::Guest(number) => participants.guests.get_mut(number).ok_or_else(missing),
            Participant::Host => Ok(&mut participants.host.program),
        }
    }

    /// Sends a request to one program and returns the text of its reply, whatever the exit code is.
    pub(super) fn reply(&mut self, who: Participant, ask: &str) -> Result<String, Fault> {
        let program = self.program(who)?;
        program.ask(ask)?;
        Ok(program.hear(STEP_LIMIT)?.text)
    }

    /// Sends a request to one program, which must reply with one of the words in `wanted`,
    /// separated by `|`.
    pub(super) fn step(&mut self, who: Participant, ask: &str, wanted: &str) -> Result<(), Fault> {
        let said = self.reply(who, ask)?;
        if wanted.split('|').any(|word| word == said) {
            return Ok(());
        }
        let name = &self.program(who)?.name;
        Err(Fault::Wrong(format!("{name} said `{said}` to `{ask}`, not `{wanted}`")))
    }

    /// Sends requests one after another: participant, request and correct replies, as for
    /// [`step`](Self::step). Returns the number of requests as text.
    pub(super) fn steps(&mut self, steps: &[(Participant, &str, &str)]) -> Result<String, Fault> {
        steps.iter().try_for_each(|(who, ask, wanted)| self.step(*who, ask, wanted))?;
        Ok(format!("{} steps", steps.len()))
    }

    /// Lets all programs run `command` at the same time and returns their replies. In the command,
    /// `{me}` is the number of the program from 0 on, with the host last, and `{all}` is the number
    /// of programs. A program that ends with another code than 0, or prints a line that begins with
    /// `error`, makes the answer no.
    pub(super) fn together(&mut self, command: &str, limit: Duration) -> Result<Vec<String>, Fault> {
        let everyone: Vec<Participant> =
            (0..self.guests).map(Participant::Guest).chain([Participant::Host]).collect();
        self.run_on(&everyone, command, limit)
    }

    /// As [`together`](Self::together), without the host.
    pub(super) fn guests(&mut self, command: &str, limit: Duration) -> Result<Vec<String>, Fault> {
        let guests: Vec<Participant> = (0..self.guests).map(Participant::Guest).collect();
        self.run_on(&guests, command, limit)
    }

    /// As [`together`](Self::together), on these participants.
    fn run_on(
        &mut self,
        those: &[Participant],
        command: &str,
        limit: Duration,
    ) -> Result<Vec<String>, Fault> {
        let all = those.len().to_string();
        for (me, who) in those.iter().enumerate() {
            let command = command.replace("{me}", &me.to_string()).replace("{all}", &all);
            self.program(*who)?.ask(&format!("run {command}"))?;
        }
        // All replies are read before the first one is checked, so no program is busy when the next
        // question begins.
        let heard: Vec<(String, Result<Answer, Fault>)> = those
            .iter()
            .map(|who| self.program(*who).map(|program| (program.name.clone(), program.hear(limit))))
            .collect::<Result<_, _>>()?;
        let mut texts = Vec::new();
        let mut wrong = Vec::new();
        for (name, answer) in heard {
            let answer = answer?;
            let errors: Vec<_> = answer.text.lines().filter(|line| line.starts_with("error ")).collect();
            if answer.code != 0 || !errors.is_empty() {
                let shown = if errors.is_empty() { last_lines(&answer.text) } else { errors.join("; ") };
                wrong.push(format!("{name} ended with {}: {shown}", answer.code));
            }
            texts.push(answer.text);
        }
        if wrong.is_empty() { Ok(texts) } else { Err(Fault::Wrong(wrong.join("\n"))) }
    }

    /// Ends a guest as a power failure would. The next question starts all participants again.
    pub(super) fn kill(&mut self, guest: usize) -> Result<(), Fault> {
        let participants = self.started.as_mut();
        let running =
            participants.and_then(|participants| participants.running.get_mut(guest)).and_then(Option::take);
        running.map(drop).ok_or_else(|| Fault::Wrong(format!("guest {guest} is not a participant")))
    }

    /// Returns the standard error of the daemons, for a message.
    pub fn daemon_logs(&self) -> String {
        let said =
            self.started.iter().flat_map(|participants| participants.daemons.iter().map(Serving::stderr));
        said.collect::<Vec<_>>().join("\n")
    }
}

/// Returns the last lines of an output.
fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join("; ")
}

/// Script of a guest. Linux's virtio-fs driver allocates the memory of a request without waiting,
/// and returns ENOMEM to the caller if none is free. So the script keeps more memory free than the
/// kernel does by default.
const SCRIPT: &str = "echo 16384 > /proc/sys/vm/min_free_kbytes || exit 8
export HOME=/tmp
/extra/guest_program serve /run/channel
exit $?";

/// Starts all guests and the host process at the same time.
fn start_all(pinhole: &Path, subject: Subject, guests: usize) -> Result<RunningParticipants, Fault> {
    let program = program(pinhole)?;
    let shared = temporary_folder("pinhole-sharing-")?;
    let mut daemons = Vec::new();
    let mut running = Vec::new();
    let mut programs = Vec::new();
    for number in 0..guests {
        let daemon = subject.daemon(pinhole, shared.path(), TAG)?.start()?;
        let guest = Guest::uml()
            .userland()
            .memory_mib(GUEST_MEMORY_MIB)
            .limit(GUEST_LIMIT)
            .unpinned()
            .share(daemon.socket(), TAG)
            .file("guest_program", 0o755, program.as_slice())
            .start(SCRIPT)?;
        programs.push(GuestProgram::new(
            format!("guest {number}"),
            guest.channel().to_path_buf(),
            guest.output_path(),
        ));
        running.push(Some(guest));
        daemons.push(daemon);
    }
    for program in &mut programs {
        program.ask("cd /")?;
        program.hear(BOOT_LIMIT)?;
    }
    let place = temporary_folder("pinhole-guest-program-")?;
    let host = start_on_host(&place, &program)?;
    Ok(RunningParticipants { guests: programs, running, host, daemons, shared, _program: place })
}

/// Starts the host process with a copy of the program in `place`.
fn start_on_host(place: &TempDir, program: &[u8]) -> Result<HostProcess, Fault> {
    let path = place.path().join("guest_program");
    let made = fs::write(&path, program)
        .and_then(|()| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)));
    made.map_err(Fault::host("cannot write the host's program"))?;
    let work = temporary_folder("pinhole-host-")?;
    let path_of_programs = with_sqlite(work.path())?;
    let output = work.path().join("output");
    let said = File::create(&output).map_err(Fault::host("cannot make the host's output"))?;
    let complaints = said.try_clone().map_err(Fault::host("cannot share the host's output"))?;
    // Runs a copy that no process has open for writing. The child of a thread that forks at this
    // moment has the first file open for writing, and the kernel would refuse to execute it.
    let child = Command::new("sh")
        .args(["-c", "cp -p \"$0\" \"$0.own\" && exec \"$0.own\" serve \"$1\""])
        .arg(&path)
        .arg(work.path())
        .env("HOME", work.path())
        .env("PATH", path_of_programs)
        .stdin(Stdio::null())
        .stdout(said)
        .stderr(complaints)
        .process_group(0)
        .spawn()
        .map_err(Fault::host("cannot start the host's program"))?;
    let program = GuestProgram::new("the host", work.path().to_path_buf(), output);
    Ok(HostProcess { child, program, _work: work })
}

/// Puts the guests' own sqlite3 into a host folder and returns a PATH that includes it.
fn with_sqlite(work: &Path) -> Result<OsString, Fault> {
    let tree = Parts::locate().userland()?;
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let script = format!(
        "#!/bin/sh\nexec {}/ld-linux-x86-64.so.2 --library-path {} {} \"$@\"\n",
        libraries.display(),
        libraries.display(),
        tree.join("usr/bin/sqlite3").display()
    );
    let folder = work.join("programs");
    let path = folder.join("sqlite3");
    let made = fs::create_dir(&folder)
        .and_then(|()| fs::write(&path, script))
        .and_then(|()| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)));
    made.map_err(Fault::host("cannot write the host's sqlite3"))?;
    let mut all = folder.into_os_string();
    all.push(":");
    all.push(std::env::var_os("PATH").unwrap_or_default());
    Ok(all)
}

/// Makes a folder that is removed when the value is dropped.
fn temporary_folder(prefix: &str) -> Result<TempDir, Fault> {
    tempfile::Builder::new().prefix(prefix).tempdir().map_err(Fault::host("cannot make a folder"))
}

/// Returns the text of a file on the host.
pub(super) fn read_text(path: &Path) -> Result<String, Fault> {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(Fault::host("cannot read a file of the share"))
}
