//! Does `pinhole inspect` say what an image holds, and name what is wrong with it?

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::kernel_mount::make;
use crate::prepare_command::{Workplace, answer, data_files};
use crate::random_tree::{Purpose, RandomTree};

#[test]
fn answer_has_the_figures_of_the_preparation() {
    let place = Workplace::new();
    RandomTree::new(300, Purpose::Files).make_files(&place.path("source")).unwrap();
    let prepared = place.prepared("source -o out/image");
    let inspected = answer(&place.pinhole("inspect out/image --json --verify-data"));
    for field in ["digest", "metadata_bytes"] {
        assert_eq!(inspected[field], prepared[field], "{field}");
    }
    assert_eq!(inspected["inodes"]["total"], prepared["inodes"]);
    assert_eq!(inspected["layers"][0]["path"].as_str().unwrap(), data_files(&prepared)[0]);
    assert_eq!(inspected["layers"][0]["state"], "verified");
    let sum = ["files", "directories", "symlinks", "character_devices", "block_devices", "fifos", "sockets"];
    let sum: u64 = sum.iter().map(|kind| inspected["inodes"][kind].as_u64().unwrap()).sum();
    assert_eq!(inspected["inodes"]["total"], sum);
    let text = place.pinhole("inspect out/image").stdout;
    for expected in [format!("digest     {}", prepared["digest"].as_str().unwrap()), "features   ".to_owned()]
    {
        assert!(text.contains(&expected), "{expected}: {text}");
    }
}

#[test]
fn images_of_other_programs_are_inspected() {
    let place = Workplace::new();
    RandomTree::new(301, Purpose::Files).make_files(&place.path("source")).unwrap();
    for form in [&[][..], &["-Enoinline_data"], &["--chunksize=4096"]] {
        make(&place.path("image"), form, &[place.path("source")]).unwrap();
        let inspected = place.pinhole("inspect image");
        assert_eq!(inspected.code, Some(0), "{form:?}: {}{}", inspected.stdout, inspected.stderr);
    }
    make(&place.path("image"), &["-zlz4"], &[place.path("source")]).unwrap();
    let refused = place.pinhole("inspect image");
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("LZ4 compression (LZ4_0PADDING) is not supported"), "{}", refused.stderr);
}

#[test]
fn problems_are_named_and_end_with_status_one() {
    let place = Workplace::new();
    fs::write(place.path("source/file"), b"content").unwrap();
    let prepared = place.prepared("source -o out/image");
    let data = place.path(&data_files(&prepared)[0]);
    fs::rename(&data, place.path("elsewhere")).unwrap();
    let missing = place.pinhole("inspect out/image");
    assert_eq!(missing.code, Some(1), "{}", missing.stdout);
    assert!(
        missing.stdout.contains("cannot open the data file: No such file or directory"),
        "{}",
        missing.stdout
    );
    fs::rename(place.path("elsewhere"), &data).unwrap();
    File::options().write(true).open(&data).unwrap().write_all_at(b"C", 0).unwrap();
    assert_eq!(place.pinhole("inspect out/image").code, Some(0));
    let changed = place.pinhole("inspect out/image --verify-data --json");
    let found: serde_json::Value = serde_json::from_str(&changed.stdout).unwrap();
    assert_eq!((changed.code, found["layers"][0]["state"].as_str()), (Some(1), Some("wrong")));
    let problem = found["problems"][0].as_str().unwrap();
    assert!(problem.contains(".data: its bytes are not those that the image expects"), "{problem}");
    let text = place.pinhole("inspect source/file");
    assert_eq!(text.code, Some(1));
    assert!(
        text.stderr.starts_with("pinhole: source/file: ") && text.stderr.contains("; give an image"),
        "{}",
        text.stderr
    );
}
