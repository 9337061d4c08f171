//! Do two guests and the host agree through a DAX window, by loads and stores in one page and
//! record locks around them?

use pinhole_tests::daemon::{Daemon, pinhole_program};
use pinhole_tests::guest::{Device, Guest, Share};
use pinhole_tests::sharing::{program, steady_turns};
use std::fs;
use std::process::Command;

/// Length of a slot in bytes. QEMU maps only whole slots.
const SLOT: usize = 2 << 20;
/// Number of request queues that the daemon announces and the device offers.
const REQUEST_QUEUES: u16 = 1;

#[test]
fn ping_pong_counts_all_clients_in_one_mapped_page() {
    const WANTED: u64 = 50;
    let pinhole = pinhole_program().unwrap();
    let program = program(&pinhole).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("page"), vec![0; SLOT]).unwrap();
    let script = format!(
        "cd /mnt/s; echo ready; until [ -e go ]; do sleep 0.05; done; /extra/guest_program pingpong rwm page 3 {WANTED}"
    );
    let guests = [(); 2].map(|()| {
        let daemon = Daemon::pinhole_at(&pinhole, folder.path())
            .argument("--tag=s")
            .argument(format!("--num-request-queues={REQUEST_QUEUES}"))
            .argument("--dax-window=16M")
            .argument("--dax=always")
            .start()
            .unwrap();
        let share = Share::new(daemon.socket(), "s").device(Device::TestPci).request_queues(REQUEST_QUEUES);
        let guest = Guest::qemu().cpus(1).memory_mib(256).attach(share.options("dax=inode"));
        (guest.file("guest_program", 0o755, program.as_slice()).start(&script).unwrap(), daemon)
    });
    let guests = guests.map(|(mut guest, daemon)| {
        guest.wait_for_output("ready").unwrap();
        (guest, daemon)
    });
    // Runs a copy that this process has never had open for writing. If another thread forks while
    // this process writes a program, the child keeps it open, and the kernel refuses to execute it.
    let own = tempfile::tempdir().unwrap();
    fs::write(own.path().join("made"), &program).unwrap();
    let began = std::time::Instant::now();
    fs::write(folder.path().join("go"), "").unwrap();
    let run = format!(
        "cp \"$0/made\" \"$0/guest_program\" && chmod 755 \"$0/guest_program\" && \"$0/guest_program\" pingpong rwm page 3 {WANTED}"
    );
    let host =
        Command::new("sh").args(["-c", &run]).arg(own.path()).current_dir(folder.path()).output().unwrap();
    let mut said = vec![String::from_utf8(host.stdout).unwrap()];
    for (guest, daemon) in guests {
        let finished = guest.wait().unwrap();
        assert_eq!(finished.exit_code, 0, "{}\n{}", finished.text(), daemon.stderr());
        said.push(finished.text().replace("ready\n", ""));
    }
    println!("{said:?} in {:?}", began.elapsed());
    let page = fs::read(folder.path().join("page")).unwrap();
    steady_turns(&said, &page, WANTED).unwrap();
}
