//! Tests of data files: positions, zeros, alignment, names.

use super::*;
use crate::output::TemporaryNames;
use crate::verity::VerityHasher;
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt as _;

fn whole(size: u64) -> Vec<Range<u64>> {
    std::iter::once(0..size).collect()
}

/// Writes files of one byte value each, and returns the data file with its bytes.
fn written(folder: &Folder, align: Align, files: &[(u8, u64)]) -> (DataFile, Vec<u64>) {
    let mut data = DataWriter::create(folder, align, LayerIndex(0)).unwrap();
    let mut starts = Vec::new();
    for (value, size) in files {
        let placed = data.place(*size, &regions(*size, &whole(*size))).unwrap();
        for region in &placed.regions {
            data.seek(region.start).unwrap();
            data.write(&vec![*value; usize::try_from(*size).unwrap()]).unwrap();
            starts.push(region.start);
        }
    }
    (data.finish().unwrap().unwrap(), starts)
}

fn folder() -> (tempfile::TempDir, TemporaryNames, Folder) {
    let directory = tempfile::tempdir().unwrap();
    let names = TemporaryNames::default();
    let folder = Folder::open(directory.path(), &names).unwrap();
    (directory, names, folder)
}

#[test]
fn files_begin_on_pages_and_a_hole_ends_the_file() {
    let (directory, names, folder) = folder();
    let (data, starts) = written(&folder, Align::Page, &[(1, 1), (2, 4096), (3, 0), (4, 5000)]);
    assert_eq!(starts, [0, 4096, 8192]);
    assert_eq!((data.len, data.data_len()), (16_384 + (2 << 20), 16_384));
    let name = DataFile::name_of(data.digest);
    data.publish(&mut names.hold().unwrap()).unwrap().unwrap();
    let bytes = std::fs::read(directory.path().join(name)).unwrap();
    let mut expected = vec![0; 16_384 + (2 << 20)];
    expected[0] = 1;
    expected[4096..8192].fill(2);
    expected[8192..13_192].fill(4);
    assert!(bytes == expected);
    let mut hasher = VerityHasher::new();
    hasher.update(&expected);
    assert_eq!(
        DataFile::name_of(hasher.finish()),
        std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().file_name()
    );
}

#[test]
fn large_files_begin_on_huge_pages_if_asked() {
    let (_directory, _names, folder) = folder();
    let huge = 2 << 20;
    let (_, starts) =
        written(&folder, Align::HugePage, &[(1, 1), (2, huge), (3, 1), (4, huge + 1), (5, huge - 1)]);
    assert_eq!(starts, [0, huge, 2 * huge, 3 * huge, 4 * huge + 4096]);
}

#[test]
fn zeros_take_no_space() {
    let (directory, names, folder) = folder();
    let (data, _) = written(&folder, Align::Page, &[(1, 4096), (0, 32 << 20), (1, 4096)]);
    let path = directory.path().join(DataFile::name_of(data.digest));
    data.publish(&mut names.hold().unwrap()).unwrap().unwrap();
    let metadata = path.metadata().unwrap();
    assert_eq!(metadata.len(), (34 << 20) + 8192);
    assert!(metadata.blocks() * 512 <= 64 << 10, "{} blocks", metadata.blocks());
}

#[test]
fn existing_file_is_reused_only_with_the_same_bytes() {
    let (directory, names, folder) = folder();
    let files = [(1, 5000)];
    let first = written(&folder, Align::Page, &files).0;
    let (path, len) = (directory.path().join(DataFile::name_of(first.digest)), first.len);
    first.publish(&mut names.hold().unwrap()).unwrap().unwrap();
    let again = written(&folder, Align::Page, &files).0;
    assert!(again.publish(&mut names.hold().unwrap()).unwrap().is_none());
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 4999).unwrap();
    let mut data = DataWriter::create(&folder, Align::Page, LayerIndex(0)).unwrap();
    data.write(&vec![1; 5000]).unwrap();
    let error = data.finish().unwrap_err();
    assert!(matches!(error, OutputError::DataChanged { .. }), "{error}");
    file.write_all_at(&[1], 4999).unwrap();
    file.set_len(len - 4096).unwrap();
    let mut data = DataWriter::create(&folder, Align::Page, LayerIndex(0)).unwrap();
    data.write(&vec![1; 5000]).unwrap();
    assert!(matches!(data.finish(), Err(OutputError::DataChanged { .. })));
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
}

#[test]
fn regions_are_whole_blocks_without_gaps_between() {
    assert_eq!(regions(10_000, &[0..1, 4096..4097, 9000..9001]), whole(10_000));
    assert_eq!(regions(20_000, &[1..2, 9000..9001]), [0..4096, 8192..12_288]);
    assert_eq!(regions(0, &[]), []);
    assert_eq!(regions(100, &[]), []);
    assert_eq!(regions(100, &[50..50, 100..200]), []);
    assert_eq!(regions(5000, &[4999..5000, 6000..7000]).first(), Some(&(4096..5000)));
}

#[test]
fn long_files_with_holes_have_larger_chunks() {
    let size = 5 << 30;
    let chunk = 128 << 10;
    let at = 3 << 30;
    assert_eq!(regions(size, &[0..1, at..at + 1]), [0..chunk, at..at + chunk]);
    assert_eq!(regions(size, &whole(size)), whole(size));
    assert!(size.div_ceil(chunk) <= limits::CHUNKS_MAX);
}

proptest! {
    #[test]
    fn regions_cover_the_data_and_ascend(
        size in 1_u64..1 << 20,
        parts in prop::collection::vec((0_u64..1 << 20, 1_u64..20_000), 0..20),
    ) {
        let mut data: Vec<_> = parts.iter().map(|(start, len)| *start..start + len).collect();
        data.sort_by_key(|range| range.start);
        let found = regions(size, &data);
        prop_assert!(found.is_sorted_by(|a, b| a.end < b.start));
        for region in &found {
            prop_assert!(region.start % BLOCK == 0 && (region.end % BLOCK == 0 || region.end == size));
            prop_assert!(region.end <= size && region.start < region.end);
        }
        for range in data.iter().filter(|range| range.start < size) {
            let end = range.end.min(size);
            prop_assert!(found.iter().any(|region| region.start <= range.start && end <= region.end));
        }
    }
}
