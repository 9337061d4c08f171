//! The policy that the command line means, and what `pinhole policy` says about policies.

pub mod args;
mod text;

use super::config::PolicyChoice;
use super::report;
use args::{CheckArgs, DiffArgs, ExplainArgs, PolicyCommand};
use pinhole_policy::{Difference, Explanation, Facilities, Policy, PolicyError, Profile, closest};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use text::{Decided, Differing, Explained};

/// Denied, or different.
const NO: u8 = 1;

/// A policy file that serves nobody. The line names the file, and the place in it where there is one.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyFileError {
    /// It could not be read.
    #[error("{}{}: {source}{}", asked.before(), path.display(), asked.hint(path, source))]
    Read {
        /// The file.
        path: PathBuf,
        /// How it was named.
        asked: Asked,
        /// Why.
        source: io::Error,
    },
    /// It is no policy.
    #[error("{}:{source}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: PolicyError,
    },
}

/// How a policy was named.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// By the option `--policy`, which takes a file.
    Option,
    /// By a word that is a profile's name or a file.
    Word,
}

impl Asked {
    const fn before(self) -> &'static str {
        match self {
            Self::Option => "--policy ",
            Self::Word => "",
        }
    }

    /// A profile that may have been meant by a file that is not there.
    fn hint(self, path: &Path, why: &io::Error) -> String {
        let known = Profile::ALL.map(Profile::name);
        let missing = path.to_str().filter(|_| why.kind() == io::ErrorKind::NotFound);
        match (missing.and_then(|word| closest(word, &known)), self) {
            (Some(meant), Self::Option) => format!("; did you mean --profile {meant}?"),
            (Some(meant), Self::Word) => format!("; did you mean the profile {meant}?"),
            (None, Self::Option | Self::Word) => String::new(),
        }
    }
}

/// The chosen policy.
///
/// # Errors
/// [`PolicyFileError`].
pub(super) fn load(choice: &PolicyChoice) -> Result<Policy, PolicyFileError> {
    match choice {
        PolicyChoice::Profile(profile) => Ok(Policy::of(*profile)),
        PolicyChoice::File(path) => read(path, Asked::Option),
    }
}

fn read(path: &Path, asked: Asked) -> Result<Policy, PolicyFileError> {
    let text = std::fs::read_to_string(path).map_err(|source| PolicyFileError::Read {
        path: path.to_owned(),
        asked,
        source,
    })?;
    Policy::parse(&text).map_err(|source| PolicyFileError::Policy { path: path.to_owned(), source })
}

/// What a policy is explained for: the default options of the host's root, with --socket-path and --xattr. What its
/// limits need comes from the policy itself.
const FACILITIES: Facilities =
    Facilities::HANDLES.union(Facilities::XATTR).union(Facilities::IDENTITY).union(Facilities::SOCKET_NAME);

/// Why a question about policies has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Answers on standard output.
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
    let (choice, policy) = if let Some(word) = &args.subject {
        named(word)?
    } else {
        let choice = PolicyChoice::of(args.policy.as_ref(), args.profile);
        let policy = load(&choice)?;
        (choice, policy)
    };
    let policy = if args.readonly { policy.without_mutations() } else { policy };
    let explained = Explanation::new(&policy, FACILITIES);
    if args.json {
        report::answer(serde_json::to_string_pretty(&explained)?)?;
    } else {
        let readonly = if args.readonly { ", without what changes anything" } else { "" };
        report::answer(
            Explained(&format!("{}{readonly}", titled(&choice)), &explained).to_string().trim_end(),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> Result<ExitCode, AnswerError> {
    let (_, policy) = named(&args.policy)?;
    let path: Vec<_> = args.path.0.iter().map(String::as_bytes).collect();
    let decision = policy.decide(&path, args.operation);
    if args.json {
        report::answer(serde_json::to_string_pretty(&decision)?)?;
    } else {
        report::answer(Decided {
            decision: &decision,
            operation: args.operation.name().unwrap_or_default(),
            path: args.path.to_string(),
            policy: args.policy.display().to_string(),
        })?;
    }
    Ok(if decision.allowed { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

fn diff(args: &DiffArgs) -> Result<ExitCode, AnswerError> {
    let ((_, a), (_, b)) = (named(&args.a)?, named(&args.b)?);
    let difference =
        Difference::between(&Explanation::new(&a, FACILITIES), &Explanation::new(&b, FACILITIES));
    if args.json {
        report::answer(serde_json::to_string_pretty(&difference)?)?;
    } else {
        let names = (args.a.display().to_string(), args.b.display().to_string());
        report::answer(Differing((&names.0, &names.1), &difference))?;
    }
    Ok(if difference.is_none() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// The policy of a profile's name, or of a file.
fn named(word: &Path) -> Result<(PolicyChoice, Policy), PolicyFileError> {
    match word.to_str().and_then(Profile::from_name) {
        Some(profile) => Ok((PolicyChoice::Profile(profile), Policy::of(profile))),
        None => Ok((PolicyChoice::File(word.to_owned()), read(word, Asked::Word)?)),
    }
}

fn titled(choice: &PolicyChoice) -> String {
    match choice {
        PolicyChoice::Profile(profile) => format!("Profile {}: {}", profile.name(), profile.what()),
        PolicyChoice::File(path) => format!("Policy {}", path.display()),
    }
}
