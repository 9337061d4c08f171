//! Policy files: parses TOML into a [`Policy`], or says in one line where the file is wrong.

use crate::automaton::RuleEffect;
use crate::glob::Glob;
use crate::limits::{LIMITS, LimitRow, LimitUnit};
use crate::{ACCESSES, Access, Limits, PathRule, PathRules, Policy, Profile};
use serde::Deserialize;
use std::num::NonZero;
use std::ops::Range;
use toml::{Spanned, Value};

/// An error in a policy file, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct PolicyError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what is accepted.
    pub message: String,
}

/// Maximum number of path rules in a file. The author could not keep track of more.
const RULES_MAX: usize = 256;
/// Accesses without which a guest cannot even see the root of the share.
const ESSENTIAL: Access = Access::LOOKUP.union(Access::STAT);

/// Accesses that a policy file may not grant, because this version does not carry them out.
///
/// Accesses of a profile are exempt: a profile may grant an operation that is not served yet.
const NOT_SERVED: Access = Access::NOT_SERVED.difference(Profile::Full.granted());

/// The keys of a policy file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    profile: Option<Spanned<String>>,
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
    #[serde(default)]
    path: Vec<Entry>,
    #[serde(default)]
    limits: std::collections::BTreeMap<Spanned<String>, Spanned<Value>>,
}

/// The keys of one `[[path]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    r#match: Spanned<String>,
    access: Option<Spanned<Vec<Spanned<String>>>>,
    hidden: Option<Spanned<bool>>,
}

/// An error in a policy file. `at` is the range of bytes that the error concerns.
struct SpannedError {
    at: Range<usize>,
    message: String,
}

impl SpannedError {
    fn at<T>(at: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { at: at.span(), message: message.into() }
    }
}

impl Policy {
    /// Parses a policy file.
    ///
    /// # Errors
    /// [`PolicyError`] if the text is not TOML, has unknown keys or names, contradicts itself, or
    /// has a rule or a limit without effect.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        parse_file(text).map_err(|SpannedError { at, message }| {
            let before = text.get(..at.start).unwrap_or(text);
            let line = before.split('\n').next_back().unwrap_or_default();
            PolicyError {
                line: before.matches('\n').count().saturating_add(1),
                column: line.chars().count().saturating_add(1),
                message,
            }
        })
    }
}

/// Parses a policy file; see [`Policy::parse`].
fn parse_file(text: &str) -> Result<Policy, SpannedError> {
    let file: File = toml::from_str(text).map_err(|error| SpannedError {
        at: error.span().unwrap_or_default(),
        message: in_one_line(error.message()),
    })?;
    let profile = match &file.profile {
        None => Profile::Share,
        Some(name) => Profile::from_name(name.get_ref()).ok_or_else(|| {
            let known = Profile::ALL.map(Profile::name);
            SpannedError::at(name, format!("unknown profile {}", suggested(name.get_ref(), &known)))
        })?,
    };
    let (allowed, denied) = (grants(&file.allow)?, accesses(&file.deny)?);
    let in_both =
        file.deny.iter().find(|name| parse_access(name).is_ok_and(|access| allowed.contains(access)));
    if let Some(name) = in_both {
        return Err(SpannedError::at(name, format!("{:?} is in allow and in deny", name.get_ref())));
    }
    let essential =
        file.deny.iter().find(|name| parse_access(name).is_ok_and(|access| ESSENTIAL.contains(access)));
    if let Some(essential) = essential {
        let message = format!("{:?} cannot be denied: nothing would work without it", essential.get_ref());
        return Err(SpannedError::at(essential, message));
    }
    let granted = profile.granted().union(allowed).difference(denied);
    let limits = limits(&file)?;
    let policy = Policy::everywhere(profile, granted).limited(limits);
    let policy = if file.path.is_empty() {
        policy
    } else {
        policy.with_paths(paths(text, &file.path, (granted, denied))?)
    };
    check_limits(&file, &policy)?;
    Ok(policy)
}

/// Refuses limits that can have no effect under the policy.
fn check_limits(file: &File, policy: &Policy) -> Result<(), SpannedError> {
    for (name, row) in file.limits.keys().filter_map(|name| Some((name, limit(name.get_ref())?))) {
        if !row.operations.is_empty() && !policy.granted_anywhere().intersects(row.operations) {
            let names: Vec<_> = row.operations.names().collect();
            let text = row.name;
            let message = format!("{text} limits operations that are granted nowhere: {}", names.join(", "));
            return Err(SpannedError::at(name, message));
        }
    }
    Ok(())
}

/// Compiles the path rules. `base` is granted where no rule matches, `denied` nowhere.
fn paths(text: &str, entries: &[Entry], (base, denied): (Access, Access)) -> Result<PathRules, SpannedError> {
    if let Some(first_excess) = entries.get(RULES_MAX) {
        return Err(SpannedError::at(&first_excess.r#match, format!("more than {RULES_MAX} path rules")));
    }
    let rules = entries.iter().map(|entry| rule(text, entry, denied)).collect::<Result<Vec<_>, _>>()?;
    let (paths, effects) = PathRules::new(rules, base).map_err(|_too_complex| SpannedError {
        at: entries.first().map(|entry| entry.r#match.span()).unwrap_or_default(),
        message: "the path rules overlap in too many ways to be compared: use fewer different wildcards"
            .to_owned(),
    })?;
    let mut each = entries.iter().zip(&effects);
    if let Some((entry, effect)) = each.find(|(_, effect)| !effect.decides || !effect.reachable) {
        return Err(SpannedError::at(&entry.r#match, ineffective(paths.rules(), *effect)));
    }
    let root = paths.root();
    if paths.is_hidden(root) || !paths.access(root).contains(ESSENTIAL) {
        let rule = paths.deciding(&[]);
        let entry = entries.iter().zip(paths.rules()).find(|(_, one)| Some(*one) == rule);
        return Err(SpannedError {
            at: entry.map(|(entry, _)| entry.r#match.span()).unwrap_or_default(),
            message: "the share's root needs lookup and stat: nothing would work without them".to_owned(),
        });
    }
    Ok(paths)
}

/// Checks and compiles one path rule. `text` is the whole file, for the line of the rule.
fn rule(text: &str, entry: &Entry, denied: Access) -> Result<PathRule, SpannedError> {
    let pattern = entry.r#match.get_ref();
    let glob = Glob::parse(pattern).map_err(|error| SpannedError::at(&entry.r#match, error.to_string()))?;
    let hidden = entry.hidden.as_ref().is_some_and(|hidden| *hidden.get_ref());
    let access = match (&entry.access, hidden) {
        (Some(names), false) => grants(names.get_ref())?,
        (None, true) => Access::empty(),
        (Some(names), true) => {
            let message = format!("{pattern:?} has access and is hidden: give one of the two");
            return Err(SpannedError::at(names, message));
        }
        (None, false) => {
            let message =
                format!("{pattern:?} has neither access nor hidden: give access = [...] or hidden = true");
            return Err(SpannedError::at(&entry.r#match, message));
        }
    };
    let names = entry.access.iter().flat_map(Spanned::get_ref);
    if let Some(name) =
        names.into_iter().find(|name| parse_access(name).is_ok_and(|one| denied.contains(one)))
    {
        let message = format!("{:?} is in deny, which applies everywhere", name.get_ref());
        return Err(SpannedError::at(name, message));
    }
    let of_files = access.difference(Access::OF_NAMES).names().next();
    if let Some(name) = of_files.filter(|_| !access.intersects(Access::REACHES)) {
        let at = entry.access.as_ref().map_or_else(|| entry.r#match.span(), Spanned::span);
        let message = format!("{name:?} without lookup: no file can be reached under this rule");
        return Err(SpannedError { at, message });
    }
    let before = text.get(..entry.r#match.span().start).unwrap_or_default();
    let line = before.matches('\n').count().saturating_add(1);
    Ok(PathRule { text: pattern.clone(), line, access, hidden, glob })
}

/// Returns the message for a rule without effect.
fn ineffective(rules: &[PathRule], effect: RuleEffect) -> String {
    let line = |index: Option<usize>| index.and_then(|index| rules.get(index)).map(|rule| rule.line);
    match (line(effect.covered_by), line(effect.hidden_by), line(effect.closed_by)) {
        (_, _, Some(line)) if effect.decides => {
            format!("this rule matches nothing that can be reached: line {line} grants no lookup above it")
        }
        (Some(line), _, _) => {
            format!(
                "this rule never decides: later rules match all its paths, such as the one in line {line}"
            )
        }
        (None, Some(line), _) => {
            format!("this rule matches nothing that can be reached: line {line} hides it")
        }
        (None, None, _) => "this rule matches nothing".to_owned(),
    }
}

/// Returns the accesses with these names.
fn accesses(names: &[Spanned<String>]) -> Result<Access, SpannedError> {
    names.iter().try_fold(Access::empty(), |all, name| parse_access(name).map(|access| all.union(access)))
}

/// Returns the access with this name.
fn parse_access(name: &Spanned<String>) -> Result<Access, SpannedError> {
    Access::named(name.get_ref()).ok_or_else(|| {
        let known: Vec<_> = ACCESSES.iter().map(|row| row.name).collect();
        SpannedError::at(name, format!("unknown operation {}", suggested(name.get_ref(), &known)))
    })
}

/// Returns the accesses with these names, to be granted. A policy file may not grant an operation
/// that this version does not serve.
fn grants(names: &[Spanned<String>]) -> Result<Access, SpannedError> {
    let not_served = names.iter().find(|name| parse_access(name).is_ok_and(|one| NOT_SERVED.contains(one)));
    match not_served {
        None => accesses(names),
        Some(name) => {
            Err(SpannedError::at(name, format!("{:?} is not served by this version", name.get_ref())))
        }
    }
}

/// The message for a limit of earlier versions. It names the replacement in the kernel; see
/// decision 0014.
const DIRTY_BYTES_REMOVED: &str =
    "dirty-bytes is no longer a limit: limit the memory of the daemon's cgroup (MemoryMax of systemd)";

/// Returns the limits of the file.
fn limits(file: &File) -> Result<Limits, SpannedError> {
    let mut limits = Limits::default();
    for (name, value) in &file.limits {
        if name.get_ref() == "dirty-bytes" {
            return Err(SpannedError::at(name, DIRTY_BYTES_REMOVED));
        }
        let row = limit(name.get_ref()).ok_or_else(|| {
            let known: Vec<_> = LIMITS.iter().map(|row| row.name).collect();
            SpannedError::at(name, format!("unknown limit {}", suggested(name.get_ref(), &known)))
        })?;
        let value = limit_value(row, value.get_ref()).map_err(|message| SpannedError::at(value, message))?;
        (row.set)(&mut limits, Some(value));
    }
    Ok(limits)
}

/// Returns the limit with this name.
fn limit(name: &str) -> Option<&'static LimitRow> {
    LIMITS.iter().find(|row| row.name == name)
}

/// Returns the value of a limit, or a message about an unacceptable value.
fn limit_value(row: &LimitRow, value: &Value) -> Result<NonZero<u64>, String> {
    let name = row.name;
    let number = match (value, row.unit) {
        (Value::Integer(number), _) => u64::try_from(*number).ok(),
        (Value::String(text), LimitUnit::Bytes) => bytes(text),
        _ => None,
    };
    let accepted = match row.unit {
        LimitUnit::Count => "a number above zero",
        LimitUnit::Bytes => "a number of bytes above zero, or with a unit, as in \"64 MiB\"",
    };
    let number = number.ok_or_else(|| format!("{name}: give {accepted}"))?;
    NonZero::new(number)
        .ok_or_else(|| format!("{name} is zero: nothing could be done; leave it out for no limit"))
}

/// Parses a number of bytes with a unit. Returns `None` for malformed text and for more than fits
/// in 64 bits.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let unit = text.strip_prefix(digits)?.trim();
    let (_, power) = UNITS.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(1_u64.checked_shl(*power)?)
}

/// Returns an unknown name with the closest known name or, if no known name is close, with all of
/// them. The text continues a message such as "unknown key".
pub fn suggested(name: &str, known: &[&str]) -> String {
    match closest(name, known) {
        Some(meant) => format!("{name:?}: did you mean {meant:?}?"),
        None => format!("{name:?}: use one of {}", known.join(", ")),
    }
}

/// Returns the known name that is closest to `name`, or `None` if all are too different. A known
/// name is closest to itself.
pub fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let close = known.iter().map(|known| (strsim::damerau_levenshtein(name, known), *known)).min();
    close.filter(|(distance, meant)| *distance <= 3 && *distance < meant.len()).map(|(_, meant)| meant)
}

/// Returns a message of the TOML parser in one line. For an unknown key, adds a suggestion.
fn in_one_line(message: &str) -> String {
    let line = message.trim().replace('\n', ", ");
    let mut quoted = line.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(unknown) if line.starts_with("unknown field") => {
            format!("unknown key {}", suggested(unknown, &quoted.collect::<Vec<_>>()))
        }
        Some(_) | None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        Policy::parse(text).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn policy_file_sets_accesses_rules_and_limits() {
        let policy = Policy::parse(
            r#"
            profile = "share"
            allow = ["mknod-char"]
            deny = ["chown"]
            [[path]]
            match = "/etc/**"
            access = ["lookup", "stat", "read"]
            [[path]]
            match = "/secret"
            hidden = true
            [limits]
            open-handles = 10000
            file-size = "64 MiB"
            write-bytes-per-second = 4096
            "#,
        )
        .unwrap();
        assert_eq!(policy.granted(), (Profile::Share.granted() | Access::MKNOD_CHAR) - Access::CHOWN);
        let rules = policy.paths().unwrap();
        let etc = rules.child(rules.root(), b"etc");
        assert_eq!(rules.access(etc), policy.granted());
        let passwd = Access::LOOKUP | Access::STAT | Access::READ;
        assert_eq!(rules.access(rules.child(etc, b"passwd")), passwd);
        assert!(rules.is_hidden(rules.child(rules.root(), b"secret")));
        assert_eq!(policy.limits().open_handles, NonZero::new(10_000));
        assert_eq!(policy.limits().file_size, NonZero::new(64 << 20));
        assert_eq!(policy.limits().write_bytes_per_second, NonZero::new(4096));
        assert_eq!(policy.limits().locks, None);
    }

    #[test]
    fn empty_file_is_the_default_profile() {
        assert_eq!(Policy::parse("").unwrap().granted(), Profile::Share.granted());
    }

    #[test]
    fn without_mutations_also_narrows_path_rules() {
        let text = "profile = \"rootfs\"\n[[path]]\nmatch = \"/data/**\"\naccess = [\"lookup\", \"write\", \"read\"]\n";
        let policy = Policy::parse(text).unwrap();
        assert!(!policy.is_read_only());
        let policy = policy.without_mutations();
        assert!(policy.is_read_only());
        let rules = policy.paths().unwrap();
        let below = rules.child(rules.child(rules.root(), b"data"), b"x");
        assert_eq!(rules.access(below), Access::LOOKUP | Access::READ);
    }

    #[test]
    fn each_error_is_one_line_with_its_position() {
        for (text, expected) in [
            ("profile = \"shared\"", "1:11: unknown profile \"shared\": did you mean \"share\"?"),
            ("profile = \"x\"", "1:11: unknown profile \"x\": use one of full, share, rootfs"),
            ("\nprofil = \"share\"", "2:1: unknown key \"profil\": did you mean \"profile\"?"),
            ("[limit]\nlocks = 1", "1:2: unknown key \"limit\": did you mean \"limits\"?"),
            ("[[path]]\nmatch = \"/a\"\nacces = []", "3:1: unknown key \"acces\": did you mean \"access\"?"),
            (
                "[[rules]]\nmatch = \"/a\"",
                "1:3: unknown key \"rules\": use one of profile, allow, deny, path, limits",
            ),
            ("allow = [\"raed\"]", "1:10: unknown operation \"raed\": did you mean \"read\"?"),
            ("allow = [\"chmod\"]\ndeny = [\"chmod\"]", "2:9: \"chmod\" is in allow and in deny"),
            ("allow = [\"ioctl-verity\"]", "1:10: \"ioctl-verity\" is not served by this version"),
            ("deny = [\"stat\"]", "1:9: \"stat\" cannot be denied: nothing would work without it"),
            ("[limits]\nlocks = 0", "2:9: locks is zero: nothing could be done; leave it out for no limit"),
            ("[limits]\nlocks = -1", "2:9: locks: give a number above zero"),
            ("[limits]\nlocks = \"1 KiB\"", "2:9: locks: give a number above zero"),
            (
                "[limits]\nfile-size = \"1 MB\"",
                "2:13: file-size: give a number of bytes above zero, or with a unit, as in \"64 MiB\"",
            ),
            (
                "[limits]\nopenhandles = 1",
                "2:1: unknown limit \"openhandles\": did you mean \"open-handles\"?",
            ),
            ("[[path]]\nmatch = \"etc\"\nhidden = true", "2:9: a path begins with /"),
            (
                "[[path]]\nmatch = \"/etc\"",
                "2:9: \"/etc\" has neither access nor hidden: give access = [...] or hidden = true",
            ),
            (
                "[[path]]\nmatch = \"/etc\"\naccess = []\nhidden = true",
                "3:10: \"/etc\" has access and is hidden",
            ),
            ("[[path]]\nmatch = \"/\"\nhidden = true", "2:9: the share's root needs lookup and stat"),
            (
                "deny = [\"chown\"]\n[[path]]\nmatch = \"/a\"\naccess = [\"chown\"]",
                "4:11: \"chown\" is in deny, which applies everywhere",
            ),
            (
                "[[path]]\nmatch = \"/a/b\"\naccess = []\n[[path]]\nmatch = \"/a/**\"\naccess = []",
                "2:9: this rule never decides: later rules match all its paths, such as the one in line 5",
            ),
            (
                "[[path]]\nmatch = \"/a\"\nhidden = true\n[[path]]\nmatch = \"/a/b\"\naccess = []",
                "5:9: this rule matches nothing that can be reached: line 2 hides it",
            ),
            (
                "[[path]]\nmatch = \"/a\"\naccess = []\n[[path]]\nmatch = \"/a/b\"\naccess = [\"lookup\"]",
                "5:9: this rule matches nothing that can be reached: line 2 grants no lookup above it",
            ),
            (
                "[[path]]\nmatch = \"/a\"\naccess = [\"create\"]\n[[path]]\nmatch = \"/a/b/**\"\nhidden = true",
                "5:9: this rule matches nothing that can be reached: line 2 grants no lookup above it",
            ),
            (
                "[[path]]\nmatch = \"/a/**\"\naccess = [\"unlink\", \"read\"]",
                "3:10: \"read\" without lookup: no file can be reached under this rule",
            ),
            (
                "profile = \"rootfs\"\n[limits]\nlocks = 9",
                "3:1: locks limits operations that are granted nowhere: lock",
            ),
            ("[limits]\ndirty-bytes = 9", "2:1: dirty-bytes is no longer a limit: limit the memory of "),
            (
                "profile = \"rootfs\"\n[limits]\nwrite-bytes-per-second = 9",
                "3:1: write-bytes-per-second limits operations that are granted nowhere: write, append, symlink, xattr-write-user, ",
            ),
            (
                "profile = \"rootfs\"\n[limits]\nfile-size = 9",
                "3:1: file-size limits operations that are granted nowhere: write, append, truncate, fallocate, ",
            ),
            ("allow = 1", "1:9: invalid type: integer `1`, expected a sequence"),
            ("profile = ", "1:11: "),
        ] {
            let line = error_of(text);
            assert!(line.starts_with(expected), "{text}\n{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn later_rule_overrides_only_the_paths_it_matches() {
        let text =
            "[[path]]\nmatch = \"/a/**\"\naccess = []\n[[path]]\nmatch = \"/a/b\"\naccess = [\"lookup\"]";
        let policy = Policy::parse(text).unwrap();
        let rules = policy.paths().unwrap();
        assert_eq!(rules.deciding(&[b"a", b"b"]).unwrap().line, 5);
        assert_eq!(rules.deciding(&[b"a", b"c"]).unwrap().line, 2);
        assert_eq!(rules.deciding(&[b"a"]), None);
    }

    #[test]
    fn rule_with_a_reachable_path_is_accepted_without_lookup() {
        for rule in [
            "match = \"/drop/*\"\naccess = [\"create\", \"append\"]",
            "match = \"/a\"\naccess = [\"mkdir\"]\n[[path]]\nmatch = \"/a/b\"\naccess = [\"lookup\"]",
            "match = \"/a\"\naccess = []\n[[path]]\nmatch = \"/**/b\"\naccess = [\"lookup\"]",
        ] {
            Policy::parse(&format!("[[path]]\n{rule}\n")).unwrap();
        }
    }

    #[test]
    fn too_many_or_too_complex_rules_are_refused() {
        let rule = |index: usize| format!("[[path]]\nmatch = \"/{index}\"\naccess = []\n");
        let many: String = (0..=RULES_MAX).map(rule).collect();
        assert!(error_of(&many).contains("more than 256 path rules"));
        // A name can match any set of these wildcards, so each set is a state of its own.
        let rule = |index: usize| format!("[[path]]\nmatch = \"/**/*{index}*/*/*/*/*\"\naccess = []\n");
        let many: String = (10..40).map(rule).collect();
        assert!(error_of(&many).contains("overlap in too many ways"));
    }

    #[test]
    fn maximum_number_of_plain_rules_is_accepted() {
        let rule = |index: usize| format!("[[path]]\nmatch = \"/{index}/**\"\naccess = [\"lookup\"]\n");
        let many: String = (0..RULES_MAX).map(rule).collect();
        Policy::parse(&many).unwrap();
    }
}
