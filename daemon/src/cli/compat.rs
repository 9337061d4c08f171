//! virtiofsd's old options `-o NAME[=VALUE],...`, translated to the current ones.

use super::args::{LocksArg, ServeArgs, When, XATTRMAP, parse_seconds};
use super::error::ConfigError;
use clap::ValueEnum;
use std::path::PathBuf;

/// Moves the words of `-o` into the other fields. A later word wins.
///
/// # Errors
/// [`ConfigError::Compat`] names the word that is unknown or has a wrong value.
pub(super) fn apply(args: &mut ServeArgs) -> Result<(), ConfigError> {
    let words = std::mem::take(&mut args.compat_options);
    for word in words.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some((name, value)) => with_value(args, name, value)?,
            None => flag(args, word)?,
        }
    }
    Ok(())
}

fn with_value(args: &mut ServeArgs, name: &str, value: &str) -> Result<(), ConfigError> {
    let wrong = |right| ConfigError::Compat { word: format!("{name}={value}"), right };
    match name {
        "source" => {
            let source_dir = PathBuf::from(value);
            if let Some(shared_dir) = args.shared_dir.take().filter(|given| *given != source_dir) {
                return Err(ConfigError::TwoDirectories { source_dir, shared_dir });
            }
            args.shared_dir = Some(source_dir);
        }
        "cache" => args.share.cache = choose(name, value)?,
        "sandbox" => args.share.sandbox.mode = Some(choose(name, value)?),
        "loglevel" | "log_level" => args.log.log_level = choose(name, value)?,
        "modcaps" => args.share.sandbox.modcaps = Some(value.to_owned()),
        "xattrmap" => return Err(wrong(format!("not supported: {XATTRMAP}"))),
        "timeout" => {
            let seconds = parse_seconds(value).map_err(wrong)?;
            args.share.attr_timeout = Some(seconds);
            args.share.entry_timeout = Some(seconds);
        }
        _ => return Err(unknown(name)),
    }
    Ok(())
}

fn flag(args: &mut ServeArgs, word: &str) -> Result<(), ConfigError> {
    let (name, on) = word.strip_prefix("no_").map_or((word, true), |name| (name, false));
    let share = &mut args.share;
    match name {
        "xattr" => share.xattr = on,
        "posix_acl" => share.posix_acl = on.then_some(When::Always),
        "writeback" => share.writeback = on,
        "readdirplus" => share.no_readdirplus = !on,
        "allow_direct_io" => share.allow_direct_io = on,
        "announce_submounts" => share.no_announce_submounts = !on,
        "killpriv_v2" => share.no_killpriv_v2 = !on,
        // `--locks` covers both kinds. A lock that reaches the host needlessly does less harm than
        // a lock that does not.
        "posix_lock" | "flock" if on => share.locks = Some(LocksArg::Host),
        "posix_lock" | "flock" => share.locks = Some(share.locks.unwrap_or(LocksArg::Guest)),
        "debug" if on => args.log.debug = true,
        _ => return Err(unknown(word)),
    }
    Ok(())
}

fn choose<T: ValueEnum>(name: &str, value: &str) -> Result<T, ConfigError> {
    T::from_str(value, false).map_err(|_error| {
        let names = T::value_variants().iter().filter_map(T::to_possible_value);
        let names: Vec<String> = names.map(|choice| choice.get_name().to_owned()).collect();
        ConfigError::Compat {
            word: format!("{name}={value}"),
            right: format!("give one of {}", names.join(", ")),
        }
    })
}

fn unknown(word: &str) -> ConfigError {
    ConfigError::Compat {
        word: word.to_owned(),
        right: "no such option: `pinhole help` lists them at -o".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::CacheArg;
    use crate::sandbox::Isolation;

    fn applied(options: &str) -> Result<ServeArgs, ConfigError> {
        let mut args = ServeArgs { compat_options: vec![options.to_owned()], ..ServeArgs::default() };
        apply(&mut args).map(|()| args)
    }

    #[test]
    fn the_old_options_of_libvirt_are_understood() {
        let args =
            applied("source=/srv/a b,cache=always,sandbox=chroot,xattr,no_flock,no_posix_lock").unwrap();
        assert_eq!(args.shared_dir.unwrap().as_os_str(), "/srv/a b");
        assert_eq!(args.share.cache, CacheArg::Always);
        assert_eq!(args.share.sandbox.mode, Some(Isolation::Chroot));
        assert!(args.share.xattr);
    }

    #[test]
    fn the_last_word_wins() {
        assert!(!applied("xattr,no_xattr").unwrap().share.xattr);
    }

    #[test]
    fn a_wrong_word_is_named() {
        for (wrong, named) in [
            ("cach=auto", "cach"),
            ("cache=some", "cache=some"),
            ("zattr", "zattr"),
            ("xattrmap=:a:", "xattrmap=:a:"),
        ] {
            assert!(applied(wrong).unwrap_err().to_string().contains(named), "{wrong}");
        }
    }

    #[test]
    fn either_kind_of_locks_selects_both() {
        for (words, locks) in [
            ("posix_lock", Some(LocksArg::Host)),
            ("no_posix_lock,flock", Some(LocksArg::Host)),
            ("flock,no_posix_lock", Some(LocksArg::Host)),
            ("no_flock,no_posix_lock", Some(LocksArg::Guest)),
            ("xattr", None),
        ] {
            assert_eq!(applied(words).unwrap().share.locks, locks, "{words}");
        }
    }
}
