//! Formats each error of clap as one line that names the argument and the accepted values.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Returns the line for an error that is not a request for help.
pub(super) fn one_line(error: &clap::Error) -> String {
    let is = |kind| error.kind() == kind;
    let text = if is(ErrorKind::UnknownArgument) || is(ErrorKind::InvalidSubcommand) {
        unknown(error)
    } else if is(ErrorKind::InvalidValue) {
        wrong_choice(error)
    } else if is(ErrorKind::ValueValidation) {
        wrong_value(error)
    } else {
        None
    };
    format!("{}; see --help", text.unwrap_or_else(|| first_line(error)))
}

fn unknown(error: &clap::Error) -> Option<String> {
    let given = one(error, ContextKind::InvalidArg).or_else(|| one(error, ContextKind::InvalidSubcommand))?;
    let meant =
        one(error, ContextKind::SuggestedArg).or_else(|| one(error, ContextKind::SuggestedSubcommand));
    Some(match meant {
        Some(meant) => format!("{given}: unknown argument: did you mean {meant}?"),
        None => format!("{given}: unknown argument"),
    })
}

fn wrong_choice(error: &clap::Error) -> Option<String> {
    let option = one(error, ContextKind::InvalidArg)?;
    let value = one(error, ContextKind::InvalidValue).unwrap_or_default();
    let choices = one(error, ContextKind::ValidValue).filter(|choices| !choices.is_empty());
    Some(match choices {
        Some(choices) if value.is_empty() => format!("{option} needs a value, one of {choices}"),
        Some(choices) => format!("{option}: {value:?} is not one of {choices}"),
        None if value.is_empty() => format!("{option} needs a value"),
        None => format!("{option}: {value:?} is wrong"),
    })
}

fn wrong_value(error: &clap::Error) -> Option<String> {
    let option = one(error, ContextKind::InvalidArg)?;
    let value = one(error, ContextKind::InvalidValue)?;
    let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let what = if value.is_empty() { String::new() } else { format!("{value:?} is wrong: ") };
    Some(format!("{option}: {what}{why}"))
}

fn one(error: &clap::Error, kind: ContextKind) -> Option<String> {
    let value = error.get(kind)?;
    if let ContextValue::Strings(texts) = value {
        return Some(texts.join(", "));
    }
    Some(value.to_string())
}

/// Returns clap's own first line, without "error:" and line breaks.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::Parser;

    fn line(words: &str) -> String {
        one_line(&Cli::try_parse_from(words.split(' ')).unwrap_err())
    }

    #[test]
    fn each_mistake_is_one_line_with_its_name() {
        for (words, expected) in [
            (
                "pinhole --shared-dirs /",
                "--shared-dirs: unknown argument: did you mean --shared-dir?; see --help",
            ),
            (
                "pinhole --cache some",
                "\"some\" is not one of strict, auto, exclusive, never, metadata, always",
            ),
            ("pinhole --num-request-queues 0", "\"0\" is wrong: 0 is not in 1..=63"),
            ("pinhole --attr-timeout soon", "give seconds as a number"),
            ("pinhole --fd", "--fd <N> needs a value"),
            ("pinhole mount /a", "<DIR>"),
            ("pinhole mount --prepared /a", "<MOUNTPOINT>"),
            (
                "pinhole --image-digest sha256:0",
                "--image-digest <DIGEST>: \"sha256:0\" is wrong: give sha256: and 64",
            ),
            (
                "pinhole --xattrmap :map::user.virtiofs.:",
                "--xattrmap [<VALUE>]: \":map::user.virtiofs.:\" is wrong: ",
            ),
            ("pinhole --translate-uid map:0:1:2", "not supported: the guest's ids are the host's"),
            ("pinhole --translate-gid map:0:1:2", "--translate-gid"),
            ("pinhole mount /a /b --security-label", "--security-label[=<VALUE>]: not supported: new files"),
            ("pinhole --migration-confirm-paths", "--migration-confirm-paths"),
            ("pinhole nonsense", "nonsense: unknown argument"),
        ] {
            let line = line(words);
            assert!(line.contains(expected), "{words}: {line}");
            assert!(!line.contains('\n'), "{words}: {line}");
        }
    }
}
