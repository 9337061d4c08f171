//! From a description to a started kernel: the initramfs, the command line, the process.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Parts;
use super::cpio::Archive;
use super::description::{Device, Guest, Kernel, Share};
use super::error::GuestError;
use super::running::{GuestFiles, Paths, Running};
use crate::placement::Placement;

/// Destination of the guest's console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Console {
    /// A file. The output of the script goes to another file.
    Logged,
    /// The terminal of this process, for script and shell.
    Terminal,
}

/// Modules that the guest's `/init` loads if the kernel has them as files.
const UML_MODULES: [&str; 4] =
    ["fs/fuse/fuse.ko", "fs/fuse/virtiofs.ko", "fs/overlayfs/overlay.ko", "drivers/block/loop.ko"];

/// Builds the initramfs of a guest and starts its process.
pub(super) fn start(guest: &Guest, script: &str, console: Console) -> Result<Running, GuestError> {
    let parts = Parts::locate();
    let work = tempfile::Builder::new()
        .prefix("pinhole-guest-")
        .tempdir()
        .map_err(GuestError::host("cannot make the guest's work folder"))?;
    let paths = Paths::new(work.path());
    fs::create_dir(&paths.channel).map_err(GuestError::host("cannot make the guest's channel"))?;

    let initrd = work.path().join("initrd");
    let archive = initramfs(guest, &parts, &paths, script, console)?;
    fs::write(&initrd, archive).map_err(GuestError::host("cannot write the initramfs"))?;

    let mut command = match guest.kernel {
        Kernel::UserMode => uml_command(guest, &parts, work.path(), &initrd, console)?,
        Kernel::Qemu => qemu_command(guest, &parts, &paths, &initrd, console)?,
    };
    match console {
        Console::Logged => {
            let log =
                File::create(&paths.kernel_log).map_err(GuestError::host("cannot make the kernel's log"))?;
            let errors = log.try_clone().map_err(GuestError::host("cannot share the kernel's log"))?;
            // A group of its own, so that the time limit reaches every process of the guest.
            command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        }
        Console::Terminal => {}
    }
    let (child, placement) = spawn(guest, &mut command)?;
    let limit = (console == Console::Logged).then_some(guest.limit);
    let running = Running::new(child, placement, GuestFiles { work, paths }, limit);
    Ok(if guest.kernel == Kernel::UserMode { running.recording_panics() } else { running })
}

/// Starts the guest's process. User-mode Linux runs on one CPU with its daemons, unless the
/// description forbids it.
fn spawn(guest: &Guest, command: &mut Command) -> Result<(Child, Option<Placement>), GuestError> {
    match guest.kernel {
        Kernel::UserMode if guest.pinned => pinned(guest, command),
        Kernel::UserMode | Kernel::Qemu => {
            let child = command.spawn().map_err(GuestError::host(format!("cannot start {command:?}")))?;
            Ok((child, None))
        }
    }
}

/// Starts the process on the CPU with the fewest guests, and moves the guest's daemons there.
fn pinned(guest: &Guest, command: &mut Command) -> Result<(Child, Option<Placement>), GuestError> {
    let failed = GuestError::host("cannot choose a CPU for the guest and its daemons");
    let placement = Placement::choose().map_err(failed)?;
    for share in &guest.shares {
        let failed = GuestError::host("cannot move a daemon to its guest's CPU");
        placement.move_daemon(&share.socket).map_err(failed)?;
    }
    let failed = GuestError::host(format!("cannot start {command:?}"));
    Ok((placement.spawn(command).map_err(failed)?, Some(placement)))
}

/// Returns the initramfs: busybox, `/init`, its settings, the script and the files of the guest.
fn initramfs(
    guest: &Guest,
    parts: &Parts,
    paths: &Paths,
    script: &str,
    console: Console,
) -> Result<Vec<u8>, GuestError> {
    let busybox = read(&parts.busybox()?)?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "extra", "mnt", "modules", "proc", "root", "run", "sys", "tmp"] {
        archive.directory(folder);
    }
    for alias in ["sbin", "usr"] {
        archive.symlink(alias, if alias == "sbin" { "bin" } else { "." });
    }
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.file("bin/busybox", 0o755, &busybox);
    archive.file("init", 0o755, include_bytes!("init.sh"));
    archive.file("settings", 0o644, settings(guest, parts, paths, console)?.as_bytes());
    archive.file("extra/script", 0o644, script.as_bytes());
    for file in &guest.files {
        for folder in parents(&file.path) {
            archive.directory(folder);
        }
        archive.file(&file.path, file.mode, &file.bytes);
    }
    if guest.kernel == Kernel::UserMode {
        let releases = parts.base()?.join("usr/lib/uml/modules");
        let release = Parts::only_child(&releases, "cargo xtask guest")?;
        for module in UML_MODULES {
            let name = module.rsplit('/').next().unwrap_or(module);
            let content = read(&release.join("kernel").join(module))?;
            archive.file(&format!("modules/{name}"), 0o644, &content);
        }
    }
    for module in &guest.modules {
        let name = module.rsplit('/').next().unwrap_or(module);
        archive.file(&format!("modules/{name}.ko"), 0o644, &qemu_module(parts, module)?);
    }
    Ok(archive.finish())
}

/// Returns a module of QEMU's kernel, which the package has compressed.
fn qemu_module(parts: &Parts, module: &str) -> Result<Vec<u8>, GuestError> {
    let release = Parts::only_child(&parts.qemu()?.join("usr/lib/modules"), "cargo xtask guest --qemu")?;
    let path = release.join("kernel").join(format!("{module}.ko.xz"));
    let what = "cannot decompress a module of the guest's kernel; run `apt-get install xz-utils`";
    let output = Command::new("xz").arg("-dc").arg(&path).output().map_err(GuestError::host(what))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(GuestError::host(what)(io::Error::other(said)))
}

/// Returns the parents of a path: `extra/a` for `extra/a/b`. `extra` itself always exists.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').skip(1).filter_map(|(at, _)| path.get(..at))
}

/// Returns the shell fragment that `init.sh` sources.
fn settings(guest: &Guest, parts: &Parts, paths: &Paths, console: Console) -> Result<String, GuestError> {
    let channel = match guest.kernel {
        Kernel::UserMode => paths.channel.display().to_string(),
        Kernel::Qemu => String::new(),
    };
    let userland = if guest.userland { parts.userland()?.display().to_string() } else { String::new() };
    let shell = match (console, guest.kernel) {
        (Console::Logged, Kernel::UserMode | Kernel::Qemu) => "",
        (Console::Terminal, Kernel::UserMode) => "/dev/tty0",
        (Console::Terminal, Kernel::Qemu) => "/dev/ttyS0",
    };
    let mut text = format!(
        "channel={}\nuserland={}\nroot={}\nshell={shell}\nmount_shares() {{\n    :\n",
        quoted(&channel),
        quoted(&userland),
        quoted(guest.root.as_deref().unwrap_or_default())
    );
    for share in guest.shares.iter().filter(|share| share.mounted) {
        let tag = quoted(&share.tag);
        let options =
            if share.options.is_empty() { String::new() } else { format!("-o {} ", quoted(&share.options)) };
        // Writing to a String cannot fail, but the result has to be used.
        writeln!(
            text,
            "    mkdir -p $top/mnt/{tag} && mount -t virtiofs {options}{tag} $top/mnt/{tag} || return 1"
        )
        .map_err(io::Error::other)
        .map_err(GuestError::host("cannot write the guest's settings"))?;
    }
    text.push_str("}\n");
    Ok(text)
}

/// Quotes `word` as one word of a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns the command that starts User-mode Linux.
fn uml_command(
    guest: &Guest,
    parts: &Parts,
    work: &Path,
    initrd: &Path,
    console: Console,
) -> Result<Command, GuestError> {
    let mut command = Command::new(parts.uml_kernel()?);
    command
        .arg(format!("mem={}M", guest.memory_mib))
        .args(["seccomp=auto", "root=/dev/ram0", "rdinit=/init", "con=null", "panic=-1"])
        .arg(option("initrd=", initrd))
        // Folder of its control socket and its pid file, which would otherwise be the user's home.
        .arg(option("uml_dir=", &work.join("uml")));
    match console {
        Console::Logged => command.arg("con0=null,fd:1"),
        Console::Terminal => command.args(["con0=fd:0,fd:1", "quiet"]),
    };
    for share in &guest.shares {
        let mut device = option("virtio_uml.device=", &share.socket);
        device.push(":26");
        command.arg(device);
    }
    command.args(&guest.kernel_options);
    Ok(command)
}

/// Returns the command that starts QEMU.
fn qemu_command(
    guest: &Guest,
    parts: &Parts,
    paths: &Paths,
    initrd: &Path,
    console: Console,
) -> Result<Command, GuestError> {
    let tree = parts.qemu()?;
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let release = Parts::only_child(&tree.join("usr/lib/modules"), "cargo xtask guest --qemu")?;
    let memory_mib = guest.memory_mib;
    // Through the tree's own loader: the host's C library may be older than the one QEMU was built
    // for.
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(&libraries)
        .arg(tree.join("usr/bin/qemu-system-x86_64"))
        .arg("-L")
        .arg(tree.join("usr/share/qemu"))
        .arg("-L")
        .arg(tree.join("usr/share/seabios"))
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", &guest.cpus.to_string()])
        // Without a HPET: one boot under TCG hung right after the kernel had found it.
        .args(["-m", &format!("{memory_mib}M"), "-machine", "q35,memory-backend=memory,hpet=off"])
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={memory_mib}M,share=on")])
        .args(["-display", "none", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(release.join("vmlinuz"))
        .arg("-initrd")
        .arg(initrd);
    match console {
        Console::Logged => command.args(["-serial", "stdio"]),
        Console::Terminal => command.args(["-serial", "mon:stdio"]),
    };
    match console {
        Console::Logged if guest.monitored => {
            let mut socket = option("unix:", &paths.monitor);
            socket.push(",server=on,wait=off");
            command.arg("-monitor").arg(socket)
        }
        Console::Logged => command.args(["-monitor", "none"]),
        Console::Terminal => &mut command,
    };
    command
        .arg("-serial")
        .arg(option("file:", &paths.output))
        .arg("-serial")
        .arg(option("file:", &paths.status))
        .arg("-append")
        .arg(qemu_kernel_line(guest, console));
    for (index, share) in guest.shares.iter().enumerate() {
        qemu_share(&mut command, share, index);
    }
    Ok(command)
}

/// Returns the command line of QEMU's kernel.
fn qemu_kernel_line(guest: &Guest, console: Console) -> String {
    let mut words = vec!["console=ttyS0", "panic=-1"];
    if console == Console::Terminal {
        words.push("quiet");
    }
    words.extend(guest.kernel_options.iter().map(String::as_str));
    words.join(" ")
}

/// Adds the device of a share to QEMU's command line.
fn qemu_share(command: &mut Command, share: &Share, index: usize) {
    let queues = share.request_queues;
    let device = match share.device {
        Device::FsPci => format!(
            "vhost-user-fs-pci,chardev=share{index},tag={},queue-size=1024,num-request-queues={queues}",
            share.tag
        ),
        Device::TestPci => format!(
            "vhost-user-test-device-pci,chardev=share{index},virtio-id=26,num_vqs={},vq_size=1024,config_size=44",
            u32::from(queues) + 1
        ),
    };
    command
        .arg("-chardev")
        .arg(option(&format!("socket,id=share{index},path="), &share.socket))
        .args(["-device", &device]);
}

/// Returns a word of a command line that ends with a path.
fn option(prefix: &str, path: &Path) -> OsString {
    let mut word = OsString::from(prefix);
    word.push(path);
    word
}

/// Returns the content of a file of the host.
fn read(path: &PathBuf) -> Result<Vec<u8>, GuestError> {
    fs::read(path).map_err(GuestError::host(format!("cannot read {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_word_does_not_end_the_word() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn only_folders_below_extra_are_made_for_a_file() {
        assert_eq!(parents("extra/a/b/c").collect::<Vec<_>>(), ["extra/a", "extra/a/b"]);
        assert_eq!(parents("extra/c").count(), 0);
    }
}
