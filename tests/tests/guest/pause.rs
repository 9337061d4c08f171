//! Can a VM be paused at any moment?
//!
//! An unmodified QEMU stops and continues a guest that reserves space and syncs files. No operation
//! of the guest may fail, and QEMU may not wait for requests that the guest has queued.

use std::fs;
use std::time::Duration;

use pinhole_tests::daemon::Daemon;
use pinhole_tests::guest::{Guest, Share};

/// Number of times that QEMU stops the guest.
const PAUSES: usize = 12;

/// Upper bound on the time of `stop` on a busy host. Decision 0013 aims at one second.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Script with several loops. Each works until the host makes the file `over`, and prints its
/// number of turns.
const SCRIPT: &str = r#"
cd /mnt/s
repeat() {
    n=0
    while [ ! -e over ]; do
        "$@" || { echo "$* failed after $n"; return 1; }
        n=$((n + 1))
    done
    echo "$1: $n"
}
reserve() { fallocate -l 400M $1 && rm $1; }
save() { dd if=/dev/zero of=$1 bs=64k count=4 conv=fsync 2> /dev/null; }
pids=
for name in a b c d; do repeat reserve $name & pids="$pids $!"; done
for name in e f; do repeat save $name & pids="$pids $!"; done
echo "at work"
for pid in $pids; do wait $pid || exit 1; done
"#;

#[test]
fn paused_guest_loses_no_operation_and_qemu_pauses_promptly() {
    // A tmpfs, where a reservation takes long.
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    let daemon = Daemon::pinhole(shared.path()).unwrap().start().unwrap();
    let share = Share::new(daemon.socket(), "s").request_queues(2);
    let mut guest = Guest::qemu().monitored().attach(share).start(SCRIPT).unwrap();
    guest.wait_for_output("at work").unwrap();
    let mut monitor = guest.monitor().unwrap();
    for _ in 0..PAUSES {
        std::thread::park_timeout(Duration::from_millis(300));
        let (_, took) = monitor.command("stop").unwrap();
        assert!(took < STOP_MAX, "QEMU waited for {took:?}: {}", daemon.stderr());
        let (status, _) = monitor.command("info status").unwrap();
        assert!(status.contains("paused"), "{status}");
        monitor.command("cont").unwrap();
    }
    fs::write(shared.path().join("over"), "").unwrap();
    let finished = guest.wait().unwrap();
    let text = finished.text();
    assert_eq!(finished.exit_code, 0, "{text}\n{}", daemon.stderr());
    let counts: Vec<u32> = text
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(_, count)| count.parse().unwrap())
        .collect();
    assert_eq!(counts.len(), 6, "{text}");
    assert!(counts.iter().all(|count| *count > 0), "{text}");
}
