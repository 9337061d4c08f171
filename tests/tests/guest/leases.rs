//! Does a real guest continue while one of its programs opens a file on which a host process has a
//! lease?

use pinhole_tests::daemon::Daemon;
use pinhole_tests::guest::Guest;
use pinhole_tests::lease::{LeaseKind, Leases};
use std::fs;

/// Script in which `cat` waits in an open for reading, and the shell's `>` in an open for writing.
/// Once both sleep, the guest works with other files on the same queue.
const SCRIPT: &str = "
    asleep() { until cut -d' ' -f3 /proc/$1/stat | grep -q '[SD]'; do :; done; }
    ls /mnt/s > /dev/null
    (exec cat /mnt/s/leased) & reader=$!
    (echo new > /mnt/s/cut) & writer=$!
    asleep $reader; asleep $writer
    for turn in 1 2 3 4 5; do cat /mnt/s/other; echo $turn > /mnt/s/made-$turn; ls /mnt/s > /dev/null; done
    echo others were served
    wait $reader && echo reader ended
    wait $writer && echo writer ended
    cat /mnt/s/cut
    ";

#[test]
fn guest_continues_while_its_programs_wait_for_leases() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["leased", "cut", "other"] {
        fs::write(path(name), format!("old {name}\n")).unwrap();
    }
    let daemon =
        Daemon::pinhole(folder.path()).unwrap().argument("--tag=s").confined_to(folder.path()).start();
    let daemon = daemon.unwrap();
    let leases = Leases::take(LeaseKind::Write, [path("leased").as_path(), &path("cut")]).unwrap();
    let mut running = Guest::uml().userland().share(daemon.socket(), "s").start(SCRIPT).unwrap();
    running.wait_for_output("others were served").unwrap();
    let seen = String::from_utf8_lossy(&running.output()).into_owned();
    assert_eq!(seen.matches("old other").count(), 5, "{seen}");
    assert!(!seen.contains("old leased") && !seen.contains("ended"), "{seen}");
    leases.give_up().unwrap();
    let finished = running.wait().unwrap();
    let text = finished.text();
    for said in ["old leased", "reader ended", "writer ended", "new"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!(fs::read_to_string(path("cut")).unwrap(), "new\n");
}
