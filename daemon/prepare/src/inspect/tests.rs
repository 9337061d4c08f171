//! Tests of the pass over images: whole, damaged and without their data files.

use super::*;
use crate::data_file::Align;
use crate::fixture::Unseen;
use crate::output::TemporaryNames;
use crate::prepare::{Prepared, Request, prepare};
use crate::source::SourceArg;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::LazyLock;

/// An image of a small tree, in a folder with its data file.
struct Fixture {
    folder: tempfile::TempDir,
    prepared: Prepared,
}

impl Fixture {
    fn new() -> Self {
        let (source, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| source.path().join(name);
        fs::create_dir_all(path("d/e")).unwrap();
        fs::write(path("d/one"), vec![7; 5000]).unwrap();
        fs::hard_link(path("d/one"), path("d/e/two")).unwrap();
        fs::write(path("empty"), b"").unwrap();
        symlink("d", path("link")).unwrap();
        (0..300).for_each(|number| fs::write(path(&format!("d/file {number:03}")), b"x").unwrap());
        let file = File::create(path("sparse")).unwrap();
        file.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", 64 << 10).unwrap();
        let request = Request {
            source: SourceArg::Path(source.path().to_owned()),
            image: folder.path().join("image"),
            data_dir: None,
            force: false,
            align: Align::Page,
            one_file_system: false,
        };
        let prepared = prepare(&request, &mut Unseen, &TemporaryNames::default()).unwrap();
        Self { folder, prepared }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn inspect(&self, verify_data: bool) -> Result<Inspection, InspectError> {
        inspect(&InspectRequest { image: self.image(), data_dir: None, data: Vec::new(), verify_data })
    }

    fn problems(&self, verify_data: bool) -> Vec<String> {
        self.inspect(verify_data).unwrap().problems
    }
}

#[test]
fn whole_image_has_counts_and_no_problems() {
    let fixture = Fixture::new();
    let inspection = fixture.inspect(true).unwrap();
    assert_eq!(inspection.problems, [] as [String; 0]);
    assert_eq!(inspection.digest, fixture.prepared.digest);
    assert_eq!(inspection.bytes, fixture.prepared.metadata_bytes);
    let expected = TreeSummary {
        files: 303,
        directories: 3,
        symlinks: 1,
        names: 307,
        file_bytes: 5000 + 300 + (1 << 20),
        mappable_files: 301,
        mappable_bytes: 5300,
        ..TreeSummary::default()
    };
    assert_eq!(inspection.tree, expected);
    assert_eq!(inspection.tree.inodes(), fixture.prepared.inodes);
    assert_eq!(inspection.layers.len(), 1);
    assert_eq!(inspection.layers[0].state, LayerState::Verified);
    assert_eq!(inspection.layers[0].path.as_ref(), Some(&fixture.prepared.data_files[0].path));
    assert!(inspection.features.contains(&"DEVICE_TABLE".to_owned()), "{:?}", inspection.features);
}

#[test]
fn data_file_that_is_wrong_is_a_problem() {
    let fixture = Fixture::new();
    let data = &fixture.prepared.data_files[0].path;
    let bytes = fs::read(data).unwrap();
    let mut changed = bytes.clone();
    changed[3] ^= 1;
    fs::write(data, &changed).unwrap();
    assert_eq!(fixture.problems(false), [] as [String; 0]);
    let expected =
        format!("{}: its bytes are not those that the image expects; copy it again", data.display());
    assert_eq!(fixture.problems(true), [expected]);
    fs::write(data, &bytes[..bytes.len() - 1]).unwrap();
    let problem = fixture.problems(false).concat();
    assert!(
        problem.contains(&format!("has {} bytes instead of {}", bytes.len() - 1, bytes.len())),
        "{problem}"
    );
    fs::remove_file(data).unwrap();
    let problem = fixture.problems(false).concat();
    assert!(problem.contains("cannot open the data file: No such file"), "{problem}");
}

#[test]
fn wrong_link_count_and_kind_are_named() {
    let fixture = Fixture::new();
    let image = fs::read(fixture.image()).unwrap();
    let is_linked = |inode: &[u8]| {
        // An extended inode of a regular file of 5,000 bytes, with two links.
        inode[8..16] == 5000_u64.to_le_bytes() && inode[44..48] == 2_u32.to_le_bytes()
    };
    let at = (0..image.len() - 64).step_by(32).find(|at| is_linked(&image[*at..at + 64])).unwrap();
    let mut wrong = image.clone();
    wrong[at + 44] = 3;
    fs::write(fixture.image(), &wrong).unwrap();
    let problem = fixture.problems(false).concat();
    assert!(
        problem.starts_with("/d/e: the inode with nid ") || problem.starts_with("/d: the inode"),
        "{problem}"
    );
    assert!(problem.ends_with(" has 2 names, but 3 by its link count"), "{problem}");
    let mut wrong = image;
    wrong[at + 5] = 0o120_000_u16.to_le_bytes()[1];
    fs::write(fixture.image(), &wrong).unwrap();
    let problem = fixture.problems(false).concat();
    assert!(problem.contains("/d/one: its directory says Regular, its inode Symlink"), "{problem}");
}

#[test]
fn other_files_are_not_inspected() {
    let fixture = Fixture::new();
    fs::write(fixture.image(), b"text").unwrap();
    assert!(matches!(fixture.inspect(false), Err(InspectError::Format { .. })));
    fs::remove_file(fixture.image()).unwrap();
    fs::create_dir(fixture.image()).unwrap();
    assert!(matches!(fixture.inspect(false), Err(InspectError::Read { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A damaged image has problems or a digest that differs. It must not panic or run long.
    #[test]
    fn damaged_images_do_not_panic(
        changes in prop::collection::vec((prop::sample::Index::arbitrary(), any::<u8>()), 1..20)
    ) {
        static WHOLE: LazyLock<Fixture> = LazyLock::new(Fixture::new);
        let mut image = fs::read(WHOLE.image()).unwrap();
        let superblock = 1024..1152;
        for (at, byte) in changes {
            let at = at.index(image.len());
            if !superblock.contains(&at) {
                image[at] = byte;
            }
        }
        let damaged = WHOLE.folder.path().join("damaged");
        fs::write(&damaged, &image).unwrap();
        let request = InspectRequest { image: damaged, data_dir: None, data: Vec::new(), verify_data: false };
        if let Ok(inspection) = inspect(&request) {
            prop_assert!(inspection.problems.len() <= 2 * limits::PROBLEMS_MAX);
            prop_assert!(inspection.problems.iter().all(|problem| !problem.contains('\n')));
        }
    }
}
