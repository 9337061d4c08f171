//! The policy of a command line, and the answers of `pinhole policy`.

pub mod args;
mod text;

use super::config::PolicyChoice;
use super::report;
use args::{CheckArgs, DiffArgs, ExplainArgs, PolicyCommand};
use pinhole_policy::{Difference, Explanation, Facilities, Policy, PolicyError, Profile, closest};
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use text::{Decided, Differing, Explained};

/// The exit code for "denied" and "different".
const NO: u8 = 1;

/// A policy file that cannot be used. The message names the file, and the line in it if there is
/// one.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyFileError {
    /// The file cannot be read.
    #[error("{}{}: {source}{}", named_by.before(), path.display(), named_by.hint(path, source))]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The argument that named it.
        named_by: NamedBy,
        /// The host's error.
        source: io::Error,
    },
    /// The file is not a valid policy.
    #[error("{}:{source}", path.display())]
    Policy {
        /// The path of the file.
        path: PathBuf,
        /// The mistake and its place.
        source: PolicyError,
    },
}

/// The argument that named a policy.
#[derive(Clone, Copy, Debug)]
pub(super) enum NamedBy {
    /// The option `--policy`, which takes a file.
    Option,
    /// A word that is a profile's name or a file.
    Word,
}

impl NamedBy {
    const fn before(self) -> &'static str {
        match self {
            Self::Option => "--policy ",
            Self::Word => "",
        }
    }

    /// Returns the remedy at the end of the message. If the file does not exist and a profile has a
    /// similar name, the remedy names that profile.
    fn hint(self, path: &Path, why: &io::Error) -> String {
        let known = Profile::ALL.map(Profile::name);
        let missing = path.to_str().filter(|_| why.kind() == io::ErrorKind::NotFound);
        match (missing.and_then(|word| closest(word, &known)), self) {
            (Some(meant), Self::Option) => format!("; did you mean --profile {meant}?"),
            (Some(meant), Self::Word) => format!("; did you mean the profile {meant}?"),
            (None, Self::Option) => "; give a policy file that can be read, or --profile".to_owned(),
            (None, Self::Word) => format!("; give a policy file that can be read, or {}", known.join(", ")),
        }
    }
}

/// Loads the chosen policy.
///
/// # Errors
/// [`PolicyFileError`].
pub(super) fn load(choice: &PolicyChoice, named_by: NamedBy) -> Result<Policy, PolicyFileError> {
    let file = match choice {
        PolicyChoice::Profile(profile) => return Ok(Policy::of(*profile)),
        PolicyChoice::File(file) => file,
    };
    let path = || file.clone();
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|source| PolicyFileError::Read { path: path(), named_by, source })?;
    Policy::parse(&text).map_err(|source| PolicyFileError::Policy { path: path(), source })
}

/// Returns the facilities for which a policy is explained: the default options of the host's root,
/// with --socket-path and --xattr. The policy itself adds the needs of its limits.
fn facilities(policy: &Policy) -> Facilities {
    let of_root = Facilities::HANDLES | Facilities::XATTR | Facilities::IDENTITY;
    of_root | Facilities::SOCKET_NAME | policy.profile().facilities()
}

/// A failure of `pinhole policy`.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    #[error("standard output: cannot write the answer: {0}; use an output that stays open")]
    Io(#[from] io::Error),
    #[error("--json: cannot encode the answer: {0}; please report it")]
    Json(#[from] serde_json::Error),
}

/// Writes the answer to standard output.
///
/// # Errors
/// [`AnswerError`].
pub(super) fn answer(command: &PolicyCommand) -> Result<ExitCode, AnswerError> {
    match command {
        PolicyCommand::Explain(args) => explain(args),
        PolicyCommand::Check(args) => check(args),
        PolicyCommand::Diff(args) => diff(args),
    }
}

fn explain(args: &ExplainArgs) -> Result<ExitCode, AnswerError> {
    let (choice, named_by) = match &args.subject {
        Some(word) => (named(word), NamedBy::Word),
        None => (PolicyChoice::of(args.policy.as_ref(), args.profile), NamedBy::Option),
    };
    let policy = load(&choice, named_by)?;
    let policy = if args.readonly { policy.without_mutations() } else { policy };
    let explained = Explanation::new(&policy, facilities(&policy));
    let readonly = if args.readonly { ", without operations that change something" } else { "" };
    let text = Explained(&format!("{}{readonly}", titled(&choice)), &explained).to_string();
    print(args.json, || serde_json::to_string_pretty(&explained), text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> Result<ExitCode, AnswerError> {
    let policy = load(&named(&args.policy), NamedBy::Word)?;
    let path: Vec<_> = args.path.0.iter().map(String::as_bytes).collect();
    let decision = policy.decide(&path, args.operation);
    let text = Decided {
        decision: &decision,
        operation: args.operation.name().unwrap_or_default(),
        path: args.path.to_string(),
        policy: args.policy.display().to_string(),
    };
    print(args.json, || serde_json::to_string_pretty(&decision), text)?;
    Ok(if decision.allowed { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

fn diff(args: &DiffArgs) -> Result<ExitCode, AnswerError> {
    let explained = |word: &Path| {
        load(&named(word), NamedBy::Word).map(|policy| Explanation::new(&policy, facilities(&policy)))
    };
    let difference = Difference::between(&explained(&args.a)?, &explained(&args.b)?);
    let (a, b) = (args.a.display().to_string(), args.b.display().to_string());
    print(args.json, || serde_json::to_string_pretty(&difference), Differing((&a, &b), &difference))?;
    Ok(if difference.is_none() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// Writes an answer as JSON or as text.
fn print(
    as_json: bool,
    json: impl Fn() -> serde_json::Result<String>,
    text: impl Display,
) -> Result<(), AnswerError> {
    let written = if as_json { report::answer(json()?) } else { report::answer(text) };
    written.map_err(AnswerError::Io)
}

/// Returns the profile with this name or, if there is none, the policy file at this path.
fn named(word: &Path) -> PolicyChoice {
    let profile = word.to_str().and_then(Profile::from_name);
    profile.map_or_else(|| PolicyChoice::File(word.to_owned()), PolicyChoice::Profile)
}

fn titled(choice: &PolicyChoice) -> String {
    match choice {
        PolicyChoice::Profile(profile) => format!("Profile {}: {}", profile.name(), profile.what()),
        PolicyChoice::File(path) => format!("Policy {}", path.display()),
    }
}
