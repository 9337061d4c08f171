//! The parts of the help that belong to no single option.
//!
//! `--help` prints the overview: one line per option. `pinhole help` prints a paragraph per option.

use clap::{Arg, ArgAction};

/// The group of options that limit what the guest and the daemon may do.
pub(super) const SANDBOX: &str = "Policy and sandbox";

/// The group of options that exist only because virtiofsd has them.
pub(super) const VIRTIOFSD: &str = "Accepted for virtiofsd";

/// The commands.
pub(super) const USAGE: &str = "\
pinhole --shared-dir DIR --socket-path SOCKET [OPTIONS]   share DIR with one VM
       pinhole mount DIR MOUNTPOINT [OPTIONS]                    share it without a VM
       pinhole prepare SOURCE -o IMAGE, pinhole inspect IMAGE    make a prepared image; check it
       pinhole policy explain|check|diff ...                     say what a policy allows
       pinhole help [COMMAND]                                    describe all options in full";

/// The end of the overview.
pub(super) const SERVE_NOTES: &str = "\
Less common, see `pinhole help`: --no-killpriv-v2 --allow-idmap --preserve-noatime --allow-mmap
  --no-readdirplus --no-announce-submounts --modcaps --uid-map --gid-map --poll-us --data --data-dir
  --image-digest --verify-data --inode-file-handles --print-capabilities -h, --help -V, --version
Accepted for virtiofsd: -o OPTIONS, --announce-submounts, --killpriv-v2, --socket, -d, -f

Examples:
  pinhole --shared-dir /srv/data --socket-path /run/data.sock --tag data
  pinhole --prepared /srv/root.erofs --socket-path /run/root.sock";

/// The end of the overview of `mount`.
pub(super) const MOUNT_NOTES: &str = "\
Less common, see `pinhole help mount`: --no-killpriv-v2 --allow-idmap --preserve-noatime
  --allow-mmap --no-readdirplus --no-announce-submounts --modcaps --data --data-dir
  --image-digest --verify-data --inode-file-handles -h, --help
Accepted for virtiofsd: --announce-submounts, --killpriv-v2, -d

Examples:
  pinhole mount /srv/data /mnt
  pinhole mount /srv/data /mnt -o ro,noatime --policy /etc/pinhole/web.toml";

/// The end of the full help.
pub(super) const SERVE_LONG_NOTES: &str = "\
Examples:
  A share for one VM:
    pinhole --shared-dir /srv/data --socket-path /run/data.sock --tag data
  in QEMU (guest memory must be shared with the daemon):
    -object memory-backend-memfd,id=m,size=1G,share=on -numa node,memdev=m
    -chardev socket,id=c,path=/run/data.sock -device vhost-user-fs-pci,chardev=c,tag=data
  in the guest:
    mount -t virtiofs data /mnt

  A read-only root file system that does not change meanwhile:
    pinhole --shared-dir /srv/root --socket-path /run/root.sock --profile rootfs --cache always

  A prepared image, which needs the fewest rights on the host:
    pinhole --prepared /srv/root.erofs --socket-path /run/root.sock

  A share with a policy file:
    pinhole --shared-dir /srv/web --socket-path /run/web.sock --policy /etc/pinhole/web.toml

  As Kata Containers starts it, on a listening socket passed as descriptor 3:
    pinhole --syslog --cache=auto --shared-dir=/run/share --fd=3 --announce-submounts

  Without a VM, through /dev/fuse:
    pinhole mount /srv/data /mnt

Exit status:
  0  the VMM disconnected, or SIGTERM or SIGINT ended the daemon
  1  something on the host failed; the last line on standard error says what
  2  the command line or the policy file is wrong; one line says what is accepted

Options of virtiofsd that are refused, because ignoring them would change what is shared:
  --xattrmap --security-label=auto|always --translate-uid --translate-gid --migration-*";

/// The end of the full help of `mount`.
pub(super) const MOUNT_LONG_NOTES: &str = "\
Examples:
  pinhole mount /srv/data /mnt
  pinhole mount /srv/data /mnt -o ro,noatime --policy /etc/pinhole/web.toml
  pinhole mount --prepared /srv/root.erofs /mnt

Exit status:
  0  the mount was removed, or SIGTERM or SIGINT ended the daemon
  1  something on the host failed; the last line on standard error says what
  2  the command line or the policy file is wrong; one line says what is accepted";

/// The end of the help of `prepare`.
pub(super) const PREPARE_NOTES: &str = "\
Examples:
  pinhole prepare /srv/root -o root.erofs
  pinhole prepare root.tar.zst -o root.erofs --align 2M
  pinhole prepare oci:/srv/layout:1.2 -o /srv/images/app.erofs --data-dir /srv/layers
  docker export CONTAINER | pinhole prepare - -o root.erofs
  pinhole prepare base/layer.erofs app/layer.erofs -o app.erofs

Exit status:
  0  the image was made
  1  the source is refused, or something on the host failed; one line says what
  2  the command line is wrong; one line says what is accepted";

/// The end of the help of `inspect`.
pub(super) const INSPECT_NOTES: &str = "\
Examples:
  pinhole inspect root.erofs
  pinhole inspect app.erofs --data-dir /srv/layers --verify-data --json

Exit status:
  0  the image and its data files can be served
  1  there are problems, or the file is no image that can be served; one line each says what
  2  the command line is wrong; one line says what is accepted";

/// Returns `--help` and `--version`. Clap's own `--help` prints the paragraphs.
pub(super) fn help_and_version() -> [Arg; 2] {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).global(true);
    let version = Arg::new("version").short('V').long("version").action(ArgAction::Version);
    [help.help("Print the overview; `pinhole help` prints everything"), version.help("Print the version")]
        .map(|option| option.hide_short_help(true).help_heading("Other"))
}

#[cfg(test)]
mod tests {
    use crate::cli::args::Cli;
    use crate::cli::config::Config;
    use clap::{Command, CommandFactory, Parser};

    const LINES_MAX: usize = 60;
    const COLUMNS_MAX: usize = 100;

    /// The words that ask for each overview, and those that ask for the paragraphs.
    const COMMANDS: [(&str, &str); 5] = [
        ("pinhole --help", "pinhole help"),
        ("pinhole serve --help", "pinhole help serve"),
        ("pinhole mount --help", "pinhole help mount"),
        ("pinhole prepare --help", "pinhole help prepare"),
        ("pinhole inspect --help", "pinhole help inspect"),
    ];

    fn printed(words: &str) -> String {
        Cli::try_parse_from(words.split(' ')).unwrap_err().render().to_string()
    }

    /// Returns the command that the words name.
    fn command(words: &str) -> Command {
        let all = Cli::command();
        let found = words.split(' ').find_map(|word| all.find_subcommand(word).cloned());
        found.unwrap_or(all)
    }

    #[test]
    fn each_overview_fits_sixty_lines_of_a_hundred_columns() {
        for (overview, _) in COMMANDS {
            let text = printed(overview);
            assert!(text.lines().count() <= LINES_MAX, "{overview}: {} lines\n{text}", text.lines().count());
            let long = text.lines().find(|line| line.chars().count() > COLUMNS_MAX);
            assert_eq!(long, None, "{overview}");
        }
    }

    #[test]
    fn every_visible_option_has_one_line_or_is_named() {
        for (overview, paragraphs) in COMMANDS {
            let (short, long) = (printed(overview), printed(paragraphs));
            for option in command(overview).get_opts().filter(|option| !option.is_hide_set()) {
                let name = option.get_long().map_or_else(
                    || format!("-{}", option.get_short().unwrap_or_default()),
                    |long| format!("--{long}"),
                );
                let is_named = |line: &&str| line.split([' ', ',', '=', '[']).any(|word| word == name);
                let lines: Vec<_> = short.lines().filter(is_named).collect();
                assert!(!lines.is_empty(), "{overview}: {name}");
                assert!(long.lines().any(|line| is_named(&line)), "{paragraphs}: {name}");
                if !option.is_hide_short_help_set() {
                    let summary = lines.iter().find(|line| line.trim_start().starts_with('-'));
                    let summary = summary.unwrap_or_else(|| panic!("{overview}: {name}"));
                    let indent = summary.len() - summary.trim_start().len();
                    let next = short.lines().skip_while(|line| line != summary).nth(1).unwrap_or_default();
                    let wraps =
                        next.len() - next.trim_start().len() > indent && !next.trim().starts_with('-');
                    assert!(!wraps, "{overview}: the summary of {name} takes two lines");
                }
            }
        }
    }

    #[test]
    fn every_example_is_a_valid_command_line() {
        for words in COMMANDS.iter().flat_map(|(overview, paragraphs)| [overview, paragraphs]) {
            let text = printed(words);
            let examples = text.lines().skip_while(|line| *line != "Examples:").map(str::trim);
            let examples = examples.filter_map(|line| line.rsplit(" | ").next());
            let examples: Vec<_> = examples.filter(|line| line.starts_with("pinhole ")).collect();
            assert!(examples.len() > 1, "{words}");
            for example in examples {
                let cli = Cli::try_parse_from(example.split(' '));
                Config::new(cli.unwrap_or_else(|error| panic!("{example}: {error}"))).unwrap();
            }
        }
    }
}
