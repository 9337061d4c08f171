//! Does a node id that no reply has given yield anything but bytes of the image's own files?

use pinhole_protocol::{
    Access, AccessMask, Errno, GetStatx, GetXattr, Handle, ListXattr, LookupName, Lseek, NodeId, Operation,
    ReadDir, ReadDirPlus, ReadLink, Whence,
};
use pinhole_tests::crash::Random;
use pinhole_tests::daemon::Daemon;

use crate::sample::{Guest, ImageFolder, data_bytes, image};

/// Bytes of the unit in which nids count.
const SLOT: usize = 32;

/// Sends each request that reads to a node. Returns the bytes of its data.
fn read_all(guest: &mut Guest, node: NodeId) -> Vec<u8> {
    let list = ReadDir { handle: Handle(1), offset: 0, size: 4096 };
    let requests = [
        Operation::ReadDir(list),
        Operation::ReadDirPlus(ReadDirPlus { list }),
        Operation::ReadDir(ReadDir { offset: 24, ..list }),
        Operation::ReadLink(ReadLink),
        Operation::GetXattr(GetXattr { name: c"user.comment", size: 1000 }),
        Operation::ListXattr(ListXattr { size: 65_536 }),
        Operation::Lseek(Lseek { handle: Handle(0), offset: 0, whence: Whence::Hole }),
        Operation::Lseek(Lseek { handle: Handle(0), offset: 1, whence: Whence::Data }),
        Operation::GetStatx(GetStatx { handle: None, flags: 0, mask: 0 }),
        Operation::Access(Access { mask: AccessMask::READ }),
    ];
    for request in requests {
        // Any errno is right; the reply has been checked.
        let _result: Result<Vec<u8>, Errno> = guest.ask(node, &request);
    }
    for name in [LookupName::Itself, LookupName::Parent, LookupName::parse(c"file").unwrap()] {
        let _result = guest.look_up(node, name);
    }
    let _attributes = guest.attributes(node);
    guest.read(node, 0, 1 << 16).unwrap_or_default()
}

/// Returns the node id of a position. All ids but the root's share their upper half.
fn forged(known: NodeId, nid: u64) -> NodeId {
    NodeId(known.0 >> 32 << 32 | nid)
}

#[test]
fn every_position_of_an_image_is_safe_to_name() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let file = guest.node("file");
    let (image, data) = (image(0), data_bytes());
    for nid in 0..=(image.len() / SLOT) as u64 + 1 {
        let bytes = read_all(&mut guest, forged(file, nid));
        // Bytes of the data file or of the image, or zeros of a hole or of the end of the data
        // file.
        for piece in bytes.chunks(4096) {
            let is_known = |all: &[u8]| all.windows(piece.len()).step_by(4).any(|window| window == piece);
            let is_zero = piece.iter().all(|byte| *byte == 0);
            let end = piece.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            assert!(
                is_zero || is_known(&data) || is_known(&image) || data.ends_with(&piece[..end]),
                "nid {nid}"
            );
        }
    }
    assert_eq!(guest.attributes(file).unwrap().size, crate::sample::FILE_LEN as u64);
}

/// Each image has bytes at random places changed, also in the inodes of the first block. The
/// superblock keeps its form, so that the daemon starts.
#[test]
fn damaged_image_yields_errors_and_no_crash() {
    let folder = ImageFolder::new(0);
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for round in 0..12 {
        let mut bytes = image(0);
        // Without the bit SB_CHKSUM, changes of the first block are not noticed.
        bytes[1032] &= !1;
        // The superblock and the device table are before this byte.
        let first = 1536;
        for _ in 0..1 << (round % 10) {
            let at = first + usize::try_from(random.below((bytes.len() - first) as u64)).unwrap();
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }
        std::fs::write(folder.image(), &bytes).unwrap();
        let daemon = match Daemon::of_image(folder.image()).unwrap().start() {
            Ok(daemon) => daemon,
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("the root ") && !error.contains("panic"), "{error}");
                continue;
            }
        };
        let mut guest = Guest::new(daemon);
        let tag = guest.look_up(NodeId::ROOT, LookupName::Itself).unwrap().generation;
        read_all(&mut guest, NodeId::ROOT);
        for nid in 0..(bytes.len() / SLOT) as u64 {
            if nid < 200 || random.below(16) == 0 {
                read_all(&mut guest, NodeId(tag << 32 | nid));
            }
        }
        assert!(!guest.daemon.stderr().contains("panic"), "{}", guest.daemon.stderr());
        guest.attributes(NodeId::ROOT).unwrap();
    }
}

#[test]
fn ids_of_no_image_are_stale_and_random_ids_harmless() {
    let folder = ImageFolder::new(0);
    let mut guest = Guest::of(&folder, &[]);
    let file = guest.node("file");
    for node in [0, 2, 7, 1 << 32, u64::MAX, file.0 ^ 1 << 32, file.0 ^ 1 << 63, file.0 & 0xffff_ffff] {
        assert_eq!(guest.attributes(NodeId(node)), Err(Errno::ESTALE), "{node:#x}");
        assert_eq!(guest.read(NodeId(node), 0, 10), Err(Errno::ESTALE), "{node:#x}");
    }
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for _ in 0..300 {
        read_all(&mut guest, NodeId(random.below(1 << 31) << 33 | random.below(1 << 31) << 2));
        read_all(&mut guest, forged(file, random.below(1 << 31)));
    }
    assert_eq!(guest.read(file, 0, 4).unwrap(), data_bytes()[..4]);
}
