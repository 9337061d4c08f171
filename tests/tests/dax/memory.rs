//! Does a daemon survive if the guest puts virtqueues or messages into a DAX window and truncates
//! the mapped file?
//!
//! QEMU announces each mapping as guest memory to every daemon of the VM. A test puts messages,
//! space for replies, descriptor tables, rings or data there. After the truncation, an access to
//! these pages raises SIGBUS on the host.

use pinhole_tests::dax_vmm::{Dax, Rules, WINDOW_START};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{GETATTR, READ, WRITE};
use pinhole_tests::frontend::{Bench, Descriptor, FrontendError, OUT_HEADER_LEN, Setup};
use pinhole_tests::linux::O_RDWR;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use vhost::vhost_user::VhostUserFrontend as _;
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};

/// Length of a slot of the window in bytes.
const SLOT: u64 = 2 << 20;

/// Starts a share with a file whose first slot is mapped at the start of the window. Returns also
/// the node id of the file.
fn start_with_mapping() -> (Dax, u64) {
    let mut dax = Dax::new(Rules::strict(), &["--dax-window=16M", "--dax=always"]).unwrap();
    dax.file("file", 4 * SLOT).unwrap();
    let node = dax.look_up("file").unwrap().node;
    assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
    (dax, node)
}

/// Truncates a file to 0 bytes, as a host process.
fn truncate(dax: &Dax, name: &str) {
    fs::OpenOptions::new().write(true).open(dax.bench.host(name)).unwrap().set_len(0).unwrap();
}

/// Checks that the daemon still answers, and has sent no invalid message to the VMM.
fn check_unharmed(dax: &mut Dax) {
    dax.bench.is_alive().unwrap();
    assert_eq!(dax.window.faults(), Vec::<String>::new());
}

/// Returns a descriptor chain with these parts. Each part is an address in guest memory, a length
/// in bytes, and whether the device writes to it.
fn chain(parts: &[(u64, usize, bool)]) -> Vec<Descriptor> {
    let count = parts.len();
    let each = parts.iter().enumerate().map(|(index, (address, len, to_write))| {
        let next = index + 1 < count;
        let flags = if next { Descriptor::NEXT } else { 0 } | if *to_write { Descriptor::WRITE } else { 0 };
        let next = if next { u16::try_from(index + 1).unwrap() } else { 0 };
        Descriptor { address: *address, len: u32::try_from(*len).unwrap(), flags, next }
    });
    each.collect()
}

/// Returns an address for a request and one for its reply, in the guest's memory outside of the
/// window.
fn ordinary_addresses(dax: &mut Dax) -> (u64, u64) {
    let (queue, _) = dax.bench.guest.queue(1).unwrap();
    (queue.place().buffers, queue.place().buffers + 0x8000)
}

#[test]
fn data_beyond_end_of_mapped_file_is_efault() {
    let (mut dax, _) = start_with_mapping();
    dax.file("data", SLOT).unwrap();
    let (data, handle) = dax.open("data", O_RDWR).unwrap();
    dax.window.store(0, b"from the window").unwrap();
    let (message, room) = ordinary_addresses(&mut dax);
    let in_window = WINDOW_START;
    let write = Frame::new(WRITE, data).u64(handle).u64(0).u32(15).u32(0).u64(0).u32(O_RDWR).u32(0).message();
    let parts = [(message, write.len(), false), (in_window, 15, false), (room, OUT_HEADER_LEN + 8, true)];
    let write_from_window = |dax: &mut Dax| {
        dax.bench.guest.poke(message, &write).unwrap();
        // Correct the length in the header, which must include the data in the window.
        let len = u32::try_from(write.len() + 15).unwrap();
        dax.bench.guest.poke(message, &len.to_le_bytes()).unwrap();
        let used = dax.bench.guest.raw_chain(1, &chain(&parts));
        used.unwrap_or_else(|error| panic!("{error}: {}", dax.bench.daemon.stderr()));
        let answer = dax.bench.guest.peek(room, OUT_HEADER_LEN).unwrap();
        i32::from_le_bytes(answer[4..8].try_into().unwrap())
    };
    assert_eq!(write_from_window(&mut dax), 0);
    assert_eq!(&fs::read(dax.bench.host("data")).unwrap()[..15], b"from the window");
    let read = Frame::new(READ, data).u64(handle).u64(0).u32(15).u32(0).u64(0).u32(O_RDWR).u32(0).message();
    let parts = [(message, read.len(), false), (room, OUT_HEADER_LEN, true), (in_window + 4096, 15, true)];
    let read_into_window = |dax: &mut Dax| {
        dax.bench.guest.poke(message, &read).unwrap();
        let used = dax.bench.guest.raw_chain(1, &chain(&parts));
        used.unwrap_or_else(|error| panic!("{error}: {}", dax.bench.daemon.stderr()));
        let answer = dax.bench.guest.peek(room, OUT_HEADER_LEN).unwrap();
        i32::from_le_bytes(answer[4..8].try_into().unwrap())
    };
    assert_eq!(read_into_window(&mut dax), 0);
    assert_eq!(dax.window.load(4096, 15).unwrap(), b"from the window");
    truncate(&dax, "file");
    let efault = -14;
    assert_eq!((write_from_window(&mut dax), read_into_window(&mut dax)), (efault, efault));
    check_unharmed(&mut dax);
}

#[test]
fn daemon_survives_a_request_in_a_truncated_file() {
    let (mut dax, _) = start_with_mapping();
    let (message, room) = ordinary_addresses(&mut dax);
    let getattr = Frame::new(GETATTR, 1).u32(0).u32(0).u64(0).message();
    dax.bench.guest.poke(message, &getattr).unwrap();
    dax.window.store(0, &getattr).unwrap();
    truncate(&dax, "file");
    let gone = WINDOW_START;
    let answer = OUT_HEADER_LEN + 104;
    // The truncated pages have, in turn: the message, its whole reply, the body of its reply, both
    // the message and its reply.
    for parts in [
        vec![(gone, getattr.len(), false), (room, answer, true)],
        vec![(message, getattr.len(), false), (gone, answer, true)],
        vec![(message, getattr.len(), false), (room, OUT_HEADER_LEN, true), (gone, 104, true)],
        vec![(gone, getattr.len(), false), (gone + 4096, answer, true)],
    ] {
        // The daemon must return the descriptors, with or without a reply.
        let used = dax.bench.guest.raw_chain(1, &chain(&parts));
        used.unwrap_or_else(|error| panic!("{error}: {:x?} {}", parts, dax.bench.daemon.stderr()));
        dax.bench.is_alive().unwrap();
    }
    // An indirect table of descriptors in the truncated pages.
    let indirect = [Descriptor { address: gone, len: 32, flags: Descriptor::INDIRECT, next: 0 }];
    dax.bench.guest.raw_chain(1, &indirect).unwrap();
    check_unharmed(&mut dax);
}

#[test]
fn removed_window_memory_is_no_longer_guest_memory() {
    let (mut dax, node) = start_with_mapping();
    assert_eq!(dax.unmap(node, &[(0, SLOT)]).unwrap(), 0);
    let (message, room) = ordinary_addresses(&mut dax);
    let getattr = Frame::new(GETATTR, 1).u32(0).u32(0).u64(0).message();
    dax.bench.guest.poke(message, &getattr).unwrap();
    let parts = [(message, getattr.len(), false), (WINDOW_START, OUT_HEADER_LEN + 104, true)];
    let used = dax.bench.guest.raw_chain(1, &chain(&parts)).unwrap();
    assert_eq!(used.len, 0, "a reply was written to removed memory");
    assert_eq!(dax.bench.guest.peek(room, 8).unwrap(), [0; 8]);
    check_unharmed(&mut dax);
}

#[test]
fn daemon_survives_a_ring_in_a_truncated_file() {
    let (mut dax, _) = start_with_mapping();
    dax.bench.guest.stop_queue(2).unwrap();
    let vmm = 0x6000_0000_0000;
    let config = VringConfigData {
        queue_max_size: 128,
        queue_size: 128,
        flags: 0,
        desc_table_addr: vmm,
        used_ring_addr: vmm + 0x2000,
        avail_ring_addr: vmm + 0x1000,
        log_addr: None,
    };
    let mut connection = dax.bench.guest.connection().clone();
    connection.set_vring_num(2, 128).unwrap();
    connection.set_vring_base(2, 0).unwrap();
    let kick = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    // The daemon may refuse the ring at once or when it uses it. It may also close the connection.
    let mut started = connection.set_vring_addr(2, &config).is_ok();
    started = started && connection.set_vring_kick(2, &kick).is_ok();
    started = started && connection.set_vring_enable(2, true).is_ok();
    truncate(&dax, "file");
    if started {
        kick.write(1).unwrap();
        check_unharmed(&mut dax);
    }
    assert!(!dax.bench.daemon.stderr().contains("ended by"), "{}", dax.bench.daemon.stderr());
}

#[test]
fn daemon_of_another_share_survives_end_of_mapping() {
    for arguments in [&[][..], &["--dax-window=16M"]] {
        let (dax, _) = start_with_mapping();
        let mut other = Bench::with(Setup::default(), arguments).unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(dax.bench.host("file")).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: WINDOW_START,
            memory_size: SLOT,
            userspace_addr: 0x6000_0000_0000,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        // The daemon may accept or refuse the region.
        drop(other.guest.connection().add_mem_region(&region));
        truncate(&dax, "file");
        let (queue, _) = other.guest.queue(1).unwrap();
        let (message, room) = (queue.place().buffers, queue.place().buffers + 0x8000);
        let getattr = Frame::new(GETATTR, 1).u32(0).u32(0).u64(0).message();
        other.guest.poke(message, &getattr).unwrap();
        let answer = OUT_HEADER_LEN + 104;
        for parts in [
            [(WINDOW_START, getattr.len(), false), (room, answer, true)],
            [(message, getattr.len(), false), (WINDOW_START, answer, true)],
        ] {
            let used = other.guest.raw_chain(1, &chain(&parts));
            used.unwrap_or_else(|error| panic!("{error}: {parts:x?} {}", other.daemon.stderr()));
            other.is_alive().unwrap();
        }
    }
}

/// The VMM announces a file of another share as memory and removes it, many times, as QEMU does for
/// mappings. At the same time, the guest truncates the file and fills a queue with requests whose
/// bytes are in this memory.
#[test]
fn daemon_survives_requests_in_a_changing_mapping() {
    const ROUNDS: usize = 20_000;
    /// Number of entries in the ring at the same time. All of them are the same descriptor chain.
    const FLOOD: u16 = 1000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    let setup = Setup { queues: 2, queue_size: 1024, ..Setup::default() };
    let mut other = Bench::with(setup, &[]).unwrap();
    let mut connection = other.guest.connection().clone();
    let over = AtomicBool::new(false);
    let (queue, memory) = other.guest.queue(1).unwrap();
    let room = queue.place().buffers;
    let requests = chain(&[(WINDOW_START, 56, false), (room, OUT_HEADER_LEN + 104, true)]);
    queue.write_table(memory, queue.place().descriptors, &requests).unwrap();
    std::thread::scope(|threads| {
        let vmm = threads.spawn(|| {
            let _at_the_end = SetOnDrop(&over);
            for round in 0..ROUNDS {
                file.set_len(SLOT).unwrap();
                let region = VhostUserMemoryRegionInfo {
                    guest_phys_addr: WINDOW_START,
                    memory_size: SLOT,
                    userspace_addr: 0x6000_0000_0000,
                    mmap_offset: 0,
                    mmap_handle: file.as_raw_fd(),
                };
                let added = connection.add_mem_region(&region).map(drop);
                file.set_len(0).unwrap();
                let removed = connection.remove_mem_region(&region);
                assert!(added.is_ok() && removed.is_ok(), "round {round}: {added:?} {removed:?}");
            }
        });
        let mut served = 0_usize;
        let mut flood = || {
            while !over.load(Ordering::Relaxed) {
                for _ in 0..FLOOD {
                    queue.offer(memory, 0)?;
                }
                queue.kick()?;
                // Wait for all replies before the next flood.
                for _ in 0..FLOOD {
                    queue.wait(memory)?;
                    served += 1;
                }
            }
            Ok::<_, FrontendError>(())
        };
        let flooded = flood();
        let vmm_outcome = vmm.join();
        assert!(
            flooded.is_ok() && vmm_outcome.is_ok(),
            "{flooded:?} after {served}:\n{}",
            other.daemon.stderr()
        );
        assert!(served > ROUNDS, "{served}");
    });
    other.is_alive().unwrap();
}

/// Sets the flag in `drop`, also after a panic.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
