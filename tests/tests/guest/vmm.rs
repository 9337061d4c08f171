//! Is stock QEMU served without changes: with its own virtio-fs device, and with the generic device
//! that gets the configuration from the daemon?

use std::fs;

use pinhole_tests::daemon::Daemon;
use pinhole_tests::guest::{Device, Guest, Share};

/// Checks that a guest under QEMU writes, reads and lists files of a share through this device, and
/// that the host has the files.
fn assert_served(device: Device, request_queues: u16) {
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("from-host"), "hello").unwrap();
    let daemon = Daemon::pinhole(shared.path())
        .unwrap()
        .argument("--tag=s")
        .confined_to(shared.path())
        .start()
        .unwrap();
    let share = Share::new(daemon.socket(), "s").device(device).request_queues(request_queues);
    let script = "set -e; cd /mnt/s; cat from-host; echo; dd if=/dev/urandom of=data bs=64k count=64 2>/dev/null\n\
                  md5sum < data; for i in 1 2 3 4; do (md5sum < data > sum$i) & done; wait; ls | wc -l";
    let finished = Guest::qemu().attach(share).run(script).unwrap();
    let text = finished.text();
    assert_eq!(finished.exit_code, 0, "{text}\n{}", daemon.stderr());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines[0], lines[2]), ("hello", "6"), "{text}");
    for sum in ["sum1", "sum2", "sum3", "sum4"] {
        let seen = fs::read_to_string(shared.path().join(sum)).unwrap();
        assert_eq!(seen.trim_end(), lines[1], "{sum}");
    }
    assert_eq!(fs::metadata(shared.path().join("data")).unwrap().len(), 64 * 65536);
}

#[test]
fn stock_qemu_with_one_request_queue_is_served() {
    assert_served(Device::FsPci, 1);
}

#[test]
fn stock_qemu_with_two_request_queues_is_served() {
    assert_served(Device::FsPci, 2);
}

#[test]
fn qemu_device_configured_by_the_daemon_is_served() {
    assert_served(Device::TestPci, 8);
}
