//! The options about the sandbox: the typed arguments, and the configuration that follows from
//! them.

use super::error::ConfigError;
use super::help::SANDBOX;
use crate::sandbox::{CapabilityChanges, CapabilityError, IdMap, IdMaps, Isolation, Layers, OnForbidden};
use clap::{Args, ValueEnum};

/// Options about the sandbox, of `serve` and `mount`.
#[derive(Args, Debug, Default)]
pub struct SandboxArgs {
    /// Isolation: namespace, chroot, none [default: namespace].
    ///
    /// namespace: the process gets its own namespaces, and the share is its root directory,
    /// read-only if the policy allows no changes. The process that was started stays outside and
    /// waits for the end of the one inside. Root needs nothing else; another user gets a user
    /// namespace. chroot: the share is the root directory; needs root. none: neither. Capabilities,
    /// Landlock and system-call filters are in force in each mode.
    #[arg(id = "sandbox", long, value_name = "MODE", value_enum, help_heading = SANDBOX)]
    pub mode: Option<SandboxMode>,
    /// On a forbidden system call: kill, log, trap, none [default: kill].
    ///
    /// kill: the process ends. log: the kernel logs the call and makes it. trap: the thread gets
    /// SIGSYS. none: no filter. `pinhole policy explain` lists the calls that a share needs.
    #[arg(long, value_name = "ACTION", value_enum, help_heading = SANDBOX)]
    pub seccomp: Option<Seccomp>,
    /// Layers to insist on: namespace, landlock, seccomp.
    ///
    /// Without such a layer the daemon does not start; other missing layers are only logged. A
    /// layer is also missing if a newer host would offer more of it. `mount` has no namespace.
    #[arg(long, value_name = "LAYER", value_enum, value_delimiter = ',', help_heading = SANDBOX)]
    pub require: Vec<RequiredLayer>,
    /// Capabilities to keep or drop besides those of the policy: `+sys_admin:-chown`.
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    #[arg(hide_short_help = true, help_heading = SANDBOX)]
    pub modcaps: Option<String>,
    /// Users of the host in the user namespace, `:namespace_id:host_id:count:`.
    ///
    /// By default only the daemon's own user, as itself. May be given several times. More users
    /// need root, or newuidmap and a line in /etc/subuid. If 0 is one of the namespace's ids, the
    /// process becomes that user, and files get the guest's owners.
    #[arg(long, value_name = "MAP", hide_short_help = true, help_heading = SANDBOX)]
    pub uid_map: Vec<String>,
    /// Groups of the host in the user namespace, as --uid-map.
    #[arg(long, value_name = "MAP", hide_short_help = true, help_heading = SANDBOX)]
    pub gid_map: Vec<String>,
}

/// Isolation of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "virtiofsd's own words")]
pub enum SandboxMode {
    Namespace,
    Chroot,
    None,
}

/// Effect of a forbidden system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "virtiofsd's own words")]
pub enum Seccomp {
    None,
    Kill,
    Log,
    Trap,
}

/// A value of `--require`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "each is the layer of that name")]
pub enum RequiredLayer {
    Namespace,
    Landlock,
    Seccomp,
}

/// The sandbox as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxConfig {
    /// The isolation of the whole process.
    pub isolation: Isolation,
    /// The effect of a forbidden system call.
    pub forbidden: OnForbidden,
    /// Changes of the capabilities that the policy needs.
    pub capabilities: CapabilityChanges,
    /// The layers that must not be missing.
    pub required: Layers,
    /// The ids of the user namespace.
    pub id_maps: IdMaps,
}

impl SandboxConfig {
    /// Checks the options. `isolation` is the default.
    ///
    /// # Errors
    /// The option that is invalid, or that contradicts another.
    pub(super) fn new(args: &SandboxArgs, isolation: Isolation) -> Result<Self, ConfigError> {
        let error = |option, why: String| ConfigError::Sandbox { option, why };
        let maps = |option, texts: &[String]| -> Result<Vec<IdMap>, ConfigError> {
            let maps = texts.iter().map(|text| text.parse::<IdMap>());
            maps.collect::<Result<_, _>>().map_err(|invalid| error(option, invalid.to_string()))
        };
        let isolation = args.mode.map_or(isolation, |mode| match mode {
            SandboxMode::Namespace => Isolation::Namespace,
            SandboxMode::Chroot => Isolation::Chroot,
            SandboxMode::None => Isolation::None,
        });
        let forbidden = match args.seccomp.unwrap_or(Seccomp::Kill) {
            Seccomp::None => OnForbidden::Allow,
            Seccomp::Kill => OnForbidden::Kill,
            Seccomp::Log => OnForbidden::Log,
            Seccomp::Trap => OnForbidden::Trap,
        };
        let id_maps =
            IdMaps { users: maps("--uid-map", &args.uid_map)?, groups: maps("--gid-map", &args.gid_map)? };
        if id_maps.are_given() && isolation != Isolation::Namespace {
            let why = "ids are mapped in a user namespace: use --sandbox namespace".to_owned();
            return Err(error("--uid-map, --gid-map", why));
        }
        let required = args.require.iter().fold(Layers::empty(), |all, layer| {
            all | match layer {
                RequiredLayer::Namespace => Layers::NAMESPACE,
                RequiredLayer::Landlock => Layers::LANDLOCK,
                RequiredLayer::Seccomp => Layers::SECCOMP,
            }
        });
        if required.contains(Layers::NAMESPACE) && isolation != Isolation::Namespace {
            let why =
                "--sandbox chroot or none and `pinhole mount` have none: use --sandbox namespace".to_owned();
            return Err(error("--require namespace", why));
        }
        if required.contains(Layers::SECCOMP) && !matches!(forbidden, OnForbidden::Kill | OnForbidden::Trap) {
            return Err(error(
                "--require seccomp",
                "--seccomp log and none forbid no call: use kill or trap".to_owned(),
            ));
        }
        let changes = args.modcaps.as_deref().unwrap_or_default().parse();
        let capabilities =
            changes.map_err(|invalid: CapabilityError| error("--modcaps", invalid.to_string()))?;
        Ok(Self { isolation, forbidden, capabilities, required, id_maps })
    }
}
