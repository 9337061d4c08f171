//! The options about the walls around the process: what was typed, and what of it is true.

use super::config::ConfigError;
use crate::sandbox::{self, CapabilityChanges, IdMap, IdMaps, Isolation};
use clap::{Args, ValueEnum};

/// Options about the walls around the process, of `serve` and `mount`.
#[derive(Args, Debug, Default)]
pub struct WallArgs {
    /// How the process is parted from the rest of the host [default: namespace].
    ///
    /// namespace: namespaces of its own, whose root directory is the share, read-only where nothing may be changed; the
    /// process that was started stays outside and waits for the end of the one inside. Root needs no more; another user
    /// gets a user namespace. chroot: the share as root directory; needs root. none: neither; capabilities, Landlock
    /// and system-call filters hold all the same.
    #[arg(long, value_name = "HOW", value_enum, help_heading = "Walls")]
    pub sandbox: Option<Sandbox>,
    /// What happens at a system call that the share does not need [default: kill].
    ///
    /// kill: the process ends. log: the kernel's log has it, the call is made. trap: the thread gets SIGSYS. none: no
    /// filter. `pinhole policy explain` lists the calls that are needed.
    #[arg(long, value_name = "ACTION", value_enum, help_heading = "Walls")]
    pub seccomp: Option<Seccomp>,
    /// Capabilities kept besides those that the policy needs, or dropped in spite of it: `+sys_admin:-chown`.
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = "Walls")]
    pub modcaps: Option<String>,
    /// Walls without which nothing is served; without it, what the host does not have is said at the start.
    ///
    /// A wall that has less than it could have on a newer host is missing, too. `mount` has no namespace.
    #[arg(long, value_name = "WALL", value_enum, value_delimiter = ',', help_heading = "Walls")]
    pub require: Vec<Wall>,
    /// Users of the host in the user namespace, `:namespace_id:host_id:count:` [default: the own user as itself].
    ///
    /// May be given several times. More than the own user needs root, or newuidmap and a line in /etc/subuid. Where 0 is
    /// among the namespace's ids, the process becomes that, and files get the guest's owners.
    #[arg(long, value_name = "MAP", help_heading = "Walls")]
    pub uid_map: Vec<String>,
    /// Groups of the host in the user namespace, as --uid-map.
    #[arg(long, value_name = "MAP", help_heading = "Walls")]
    pub gid_map: Vec<String>,
}

/// Isolation of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "virtiofsd's own words")]
pub enum Sandbox {
    Namespace,
    Chroot,
    None,
}

/// What a forbidden system call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "virtiofsd's own words")]
pub enum Seccomp {
    None,
    Kill,
    Log,
    Trap,
}

/// What `--require` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "each is the wall of that name")]
pub enum Wall {
    Namespace,
    Landlock,
    Seccomp,
}

/// The walls as they are to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Walls {
    /// Around everything.
    pub isolation: Isolation,
    /// At a forbidden call.
    pub forbidden: sandbox::OnForbidden,
    /// Beside the policy's table.
    pub capabilities: CapabilityChanges,
    /// Which must be there.
    pub required: sandbox::Walls,
    /// Of the user namespace.
    pub id_maps: IdMaps,
}

impl Walls {
    /// Judges the options. `isolation` is what holds where nothing is said.
    ///
    /// # Errors
    /// The option that means nothing.
    pub(super) fn of(args: &WallArgs, isolation: Isolation) -> Result<Self, ConfigError> {
        let wall = |option, why: String| ConfigError::Wall { option, why };
        let maps = |option, texts: &[String]| -> Result<Vec<IdMap>, ConfigError> {
            let read = texts.iter().map(|text| text.parse::<IdMap>());
            read.collect::<Result<_, _>>().map_err(|error| wall(option, error.to_string()))
        };
        let isolation = args.sandbox.map_or(isolation, |wanted| match wanted {
            Sandbox::Namespace => Isolation::Namespace,
            Sandbox::Chroot => Isolation::Chroot,
            Sandbox::None => Isolation::None,
        });
        let forbidden = match args.seccomp.unwrap_or(Seccomp::Kill) {
            Seccomp::None => sandbox::OnForbidden::Allow,
            Seccomp::Kill => sandbox::OnForbidden::Kill,
            Seccomp::Log => sandbox::OnForbidden::Log,
            Seccomp::Trap => sandbox::OnForbidden::Trap,
        };
        let id_maps =
            IdMaps { users: maps("--uid-map", &args.uid_map)?, groups: maps("--gid-map", &args.gid_map)? };
        if id_maps.are_given() && isolation != Isolation::Namespace {
            let why = "a user namespace comes with --sandbox namespace only".to_owned();
            return Err(wall("--uid-map, --gid-map", why));
        }
        let required = args.require.iter().fold(sandbox::Walls::empty(), |all, one| {
            all | match one {
                Wall::Namespace => sandbox::Walls::NAMESPACE,
                Wall::Landlock => sandbox::Walls::LANDLOCK,
                Wall::Seccomp => sandbox::Walls::SECCOMP,
            }
        });
        if required.contains(sandbox::Walls::NAMESPACE) && isolation != Isolation::Namespace {
            return Err(wall(
                "--require namespace",
                "this share has none, by --sandbox or by its kind".to_owned(),
            ));
        }
        let enforced = matches!(forbidden, sandbox::OnForbidden::Kill | sandbox::OnForbidden::Trap);
        if required.contains(sandbox::Walls::SECCOMP) && !enforced {
            return Err(wall("--require seccomp", "--seccomp log and none hold nothing".to_owned()));
        }
        let changes = args.modcaps.as_deref().unwrap_or_default().parse();
        let capabilities: CapabilityChanges =
            changes.map_err(|error: sandbox::CapabilityError| wall("--modcaps", error.to_string()))?;
        Ok(Self { isolation, forbidden, capabilities, required, id_maps })
    }
}
