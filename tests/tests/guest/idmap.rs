//! Does an idmapped mount of a share behave as an idmapped mount of a local ext4?

use super::cases::{Shared, boot, serve};

/// Script that runs the case in one place.
const SCRIPT: &str = "python3 -B /extra/idmap.py /mnt/PLACE PLACE\n";

#[test]
fn idmapped_mount_behaves_as_on_a_local_directory() {
    let (with, without) = (Shared::new(), Shared::new());
    let daemons = vec![
        ("mapped", serve(&with.path, "mapped", &["--allow-idmap"])),
        ("plain", serve(&without.path, "plain", &[])),
    ];
    let places = ["local", "mapped", "plain"];
    let script: String = places.iter().map(|place| SCRIPT.replace("PLACE", place)).collect();
    let report = boot(&script, daemons);
    for (place, ended, stderr) in &report.daemons {
        assert!(ended.contains("exit status: 0"), "{place} {ended}: {stderr}");
    }
    let local = report.lines("local", "idmap");
    assert!(local.contains(&"mount: 0 ".to_owned()), "{local:#?}");
    assert!(local.contains(&"make without a place: EOVERFLOW".to_owned()), "{local:#?}");
    let found = report.differences("idmap", "mapped", "local", &[]);
    assert!(found.is_empty(), "{}\nall: {local:#?}", found.join("\n"));
    let refused = report.lines("plain", "idmap").join("\n");
    assert!(refused.starts_with("mount: 32 "), "{refused}");
}
