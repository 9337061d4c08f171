//! The options about the sandbox: the typed arguments, and the configuration that follows from
//! them.

use super::error::ConfigError;
use super::help::SANDBOX;
use crate::sandbox::{CapabilityChanges, CapabilityError, IdMap, IdMaps, Isolation, Layers, OnForbidden};
use clap::Args;

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
    pub mode: Option<Isolation>,
    /// On a forbidden system call: kill, log, trap, none [default: kill].
    ///
    /// kill: the process ends. log: the kernel logs the call and makes it. trap: the thread gets
    /// SIGSYS. none: no filter. `pinhole policy explain` lists the calls that a share needs.
    #[arg(long, value_name = "ACTION", value_enum, help_heading = SANDBOX)]
    pub seccomp: Option<OnForbidden>,
    /// Layers to insist on: namespace, landlock, seccomp.
    ///
    /// Without such a layer the daemon does not start; other missing layers are only logged. A
    /// layer is also missing if a newer host would offer more of it. `mount` has no namespace.
    #[arg(long, value_name = "LAYER", value_parser = parse_layer, value_delimiter = ',', help_heading = SANDBOX)]
    pub require: Vec<Layers>,
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

/// Parses a layer that may be required.
fn parse_layer(text: &str) -> Result<Layers, &'static str> {
    match text {
        "namespace" => Ok(Layers::NAMESPACE),
        "landlock" => Ok(Layers::LANDLOCK),
        "seccomp" => Ok(Layers::SECCOMP),
        _ => Err("give namespace, landlock or seccomp"),
    }
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
        let isolation = args.mode.unwrap_or(isolation);
        let forbidden = args.seccomp.unwrap_or_default();
        let id_maps =
            IdMaps { users: maps("--uid-map", &args.uid_map)?, groups: maps("--gid-map", &args.gid_map)? };
        if id_maps.are_given() && isolation != Isolation::Namespace {
            let why = "ids are mapped in a user namespace: use --sandbox namespace".to_owned();
            return Err(error("--uid-map, --gid-map", why));
        }
        let required: Layers = args.require.iter().copied().collect();
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
