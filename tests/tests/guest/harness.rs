//! Is the harness reliable? The output is intact, exit codes are kept, failures are noticed, no
//! process is left, and only the test's own folder is writable.
//!
//! The packaged virtiofsd serves these guests, so a failure here is a fault of the harness.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use pinhole_tests::daemon::{Daemon, confined_program};
use pinhole_tests::guest::{Guest, GuestError, PANICS_VARIABLE, Share, panicked_tests};

/// Returns the living processes of a process group, from `proc_pid_stat(5)`. Zombies have ended.
fn members_of_group(group: u32) -> Vec<String> {
    let wanted = group.to_string();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let in_group = |stat: &String| {
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<_> = after_name.split_whitespace().take(3).collect();
        fields.get(2) == Some(&wanted.as_str()) && fields.first() != Some(&"Z")
    };
    stats.filter(in_group).collect()
}

#[test]
fn exit_code_and_output_come_back_byte_for_byte() {
    let script = "printf 'a\\000b\\r\\n\\377'; dd if=/dev/zero bs=1000 count=200 2>/dev/null; exit 42";
    let finished = Guest::uml().run(script).unwrap();
    assert_eq!(finished.exit_code, 42, "{}", finished.kernel_log);
    let mut expected = b"a\0b\r\n\xff".to_vec();
    expected.resize(expected.len() + 200_000, 0);
    assert!(finished.output == expected, "{} bytes came back", finished.output.len());
    assert!(finished.kernel_log.contains("Linux version"), "{}", finished.kernel_log);
}

#[test]
fn two_shares_are_mounted_by_tag_and_written_through() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(first.path().join("from-host"), "hello").unwrap();
    let one = Daemon::virtiofsd(first.path()).unwrap().argument("--tag=one").start().unwrap();
    let two = Daemon::virtiofsd(second.path()).unwrap().argument("--tag=two").start().unwrap();
    let finished = Guest::uml()
        .share(one.socket(), "one")
        .attach(Share::new(two.socket(), "two").options("ro"))
        .file("data", 0o644, "extra")
        .run("cat /mnt/one/from-host /extra/data; echo from guest > /mnt/one/reply; touch /mnt/two/x || true")
        .unwrap();
    assert_eq!(finished.exit_code, 0, "{}", finished.text());
    assert!(finished.text().starts_with("helloextra"), "{}", finished.text());
    assert!(finished.text().contains("Read-only file system"), "{}", finished.text());
    assert_eq!(fs::read_to_string(first.path().join("reply")).unwrap(), "from guest\n");
}

#[test]
fn failed_mount_exits_125_with_the_reason() {
    let shared = tempfile::tempdir().unwrap();
    let daemon = Daemon::virtiofsd(shared.path()).unwrap().argument("--tag=real").start().unwrap();
    let finished = Guest::uml().share(daemon.socket(), "other").run("echo never").unwrap();
    assert_eq!(finished.exit_code, 125);
    assert!(finished.text().contains("mount"), "{}", finished.text());
    assert!(!finished.text().contains("never"), "{}", finished.text());
}

#[test]
fn the_time_limit_ends_every_process_of_the_guest() {
    // A busy host boots a guest slowly.
    let boot = Guest::uml().run("true").unwrap().elapsed;
    let limit = Duration::from_secs(2) + 3 * boot;
    let began = Instant::now();
    let guest = Guest::uml().limit(limit);
    let mut running = guest.start("echo started; sleep 1000 & sleep 1000").unwrap();
    running.wait_for_output("started").unwrap();
    let group = running.id();
    assert!(!members_of_group(group).is_empty());
    let error = running.wait().unwrap_err();
    assert!(matches!(&error, GuestError::TimeLimit { output, .. } if output.contains("started")), "{error}");
    assert!(began.elapsed() < limit + Duration::from_secs(15));
    assert_eq!(members_of_group(group), Vec::<String>::new());
}

#[test]
fn a_kernel_panic_is_an_error() {
    let error = Guest::uml().run("echo c > /proc/sysrq-trigger; sleep 100").unwrap_err();
    assert!(matches!(error, GuestError::Kernel { .. }), "{error}");
}

#[test]
fn a_kernel_panic_is_recorded_with_its_test() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("panics");
    let panics = "harness::a_kernel_panic_is_an_error";
    for test in ["harness::exit_code_and_output_come_back_byte_for_byte", panics] {
        // With one test thread, a test runs on a thread without the test's name.
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--test-threads=2"]).env(PANICS_VARIABLE, &record);
        let outcome = command.output().unwrap();
        let printed = String::from_utf8_lossy(&outcome.stdout);
        assert!(outcome.status.success() && printed.contains(" 1 passed"), "{printed}");
    }
    assert_eq!(panicked_tests(&record).unwrap(), [panics]);
}

/// Returns the sets of CPUs on which the threads of `process` may run.
fn cpus_of(process: u32) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|thread| thread.unwrap().path());
    let status = threads.map(|thread| fs::read_to_string(thread.join("status")).unwrap());
    let line = |status: String| {
        status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned()
    };
    status.map(line).collect()
}

#[test]
fn a_guest_and_its_daemon_run_on_one_cpu() {
    let shared = tempfile::tempdir().unwrap();
    let daemon = Daemon::pinhole(shared.path()).unwrap().argument("--tag=s").start().unwrap();
    let mut guest = Guest::uml().share(daemon.socket(), "s").start("echo started; sleep 1000").unwrap();
    guest.wait_for_output("started").unwrap();
    let of_guest = cpus_of(guest.id());
    assert_eq!(of_guest.len(), 1);
    for process in [daemon.id(), daemon.serving_id()] {
        assert_eq!(cpus_of(process), of_guest);
    }
    // On a host with one CPU every thread has the same set.
    let own = rustix::thread::sched_getaffinity(None).unwrap();
    let named = of_guest.first().unwrap().trim_start_matches("Cpus_allowed_list:").trim();
    assert!(named.parse::<usize>().is_ok_and(|cpu| own.is_set(cpu)), "{of_guest:?}");
    assert_eq!(own.count(), u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap());
}

#[test]
fn the_userland_has_its_tools_and_cannot_be_changed() {
    let script = "set -e\ngit --version; sqlite3 --version; fio --version; python3 --version; gcc --version\n\
                  printf 'int main(void) { return 7; }' > /tmp/a.c; gcc -o /tmp/a /tmp/a.c; /tmp/a || test $? = 7\n\
                  ! touch /usr/x; stat -c %U /etc/passwd; echo complete";
    let finished = Guest::uml().userland().run(script).unwrap();
    assert_eq!(finished.exit_code, 0, "{}", finished.text());
    assert!(finished.text().ends_with("root\ncomplete\n"), "{}", finished.text());
}

#[test]
fn qemu_boots_with_a_stock_vhost_user_fs_device() {
    let shared = tempfile::tempdir().unwrap();
    let daemon = Daemon::virtiofsd(shared.path()).unwrap().start().unwrap();
    let finished = Guest::qemu()
        .share(daemon.socket(), "shared")
        .run("uname -r; printf 'x\\r\\n\\000' > /mnt/shared/f; cat /mnt/shared/f; exit 3")
        .unwrap();
    assert_eq!(finished.exit_code, 3, "{}", finished.text());
    assert!(finished.output.ends_with(b"\nx\r\n\0"), "{}", finished.text());
    assert_eq!(fs::read(shared.path().join("f")).unwrap(), b"x\r\n\0");
}

#[test]
fn confined_daemon_writes_only_its_folder() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = format!(
        "touch {own}/made; for d in {other} / /etc /usr /root /tmp /var/tmp /dev/shm; do \
         if touch $d/canary-$$ 2>/dev/null; then echo writable: $d; rm $d/canary-$$; fi; done",
        own = own.path().display(),
        other = other.path().display()
    );
    let outcome = Command::new(confined_program().unwrap())
        .arg("--writable")
        .arg(own.path())
        .args(["--", "sh", "-c", &script])
        .output()
        .unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "");
    assert!(own.path().join("made").exists());
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
}

#[test]
fn a_confined_daemon_serves_its_folder() {
    let shared = tempfile::tempdir().unwrap();
    let daemon = Daemon::virtiofsd(shared.path())
        .unwrap()
        .argument("--tag=s")
        .confined_to(shared.path())
        .start()
        .unwrap();
    let finished = Guest::uml().share(daemon.socket(), "s").run("echo hi > /mnt/s/f").unwrap();
    assert_eq!(finished.exit_code, 0, "{}", finished.text());
    assert_eq!(fs::read_to_string(shared.path().join("f")).unwrap(), "hi\n");
}
