//! Is an image of an OCI layout what its layers give one after another, and do images share data
//! files?

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::prepare_command::{Workplace, data_files, names};

/// Makes a folder for a layer from paths: a directory ends with a slash, a file has its path as
/// content.
fn make_layer(place: &Workplace, layer: &str, paths: &[&str]) {
    for path in paths {
        let full = place.path(&format!("{layer}/{path}"));
        if path.ends_with('/') {
            fs::create_dir_all(full).unwrap();
        } else {
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(full, format!("{layer}: {path}")).unwrap();
        }
    }
}

/// Packs the folder of a layer, and adds it to a layout as a blob.
fn add_layer(place: &Workplace, layout: &str, layer: &str, compression: &str) -> Value {
    let archive = format!("{layer}.tar");
    let option =
        if compression.is_empty() { "--format=posix".to_owned() } else { format!("--{compression}") };
    place.host("tar", &["--numeric-owner", "-C", layer, &option, "-cf", &archive, "."]);
    let bytes = fs::read(place.path(&archive)).unwrap();
    let suffix = if compression.is_empty() { String::new() } else { format!("+{compression}") };
    add_blob(place, layout, &format!("application/vnd.oci.image.layer.v1.tar{suffix}"), &bytes)
}

/// Adds a blob to a layout, and returns its descriptor.
fn add_blob(place: &Workplace, layout: &str, media_type: &str, bytes: &[u8]) -> Value {
    let folder = place.path(&format!("{layout}/blobs/sha256"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("new"), bytes).unwrap();
    let sum = Command::new("sha256sum").arg(folder.join("new")).output().unwrap().stdout;
    let digest = String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned();
    fs::rename(folder.join("new"), folder.join(&digest)).unwrap();
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
}

/// Writes the index of a layout with images: tags and layers.
fn write_index(place: &Workplace, layout: &str, images: &[(&str, &[&Value])]) {
    let manifests = images.iter().map(|(tag, layers)| {
        let manifest = json!({"schemaVersion": 2, "layers": layers}).to_string();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let mut descriptor = add_blob(place, layout, media_type, manifest.as_bytes());
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        descriptor
    });
    let index = json!({"schemaVersion": 2, "manifests": manifests.collect::<Vec<_>>()});
    fs::write(place.path(&format!("{layout}/index.json")), index.to_string()).unwrap();
}

/// Returns the paths of a tree, files with their content.
fn shown(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(path) = waiting.pop() {
        for name in names(&root.join(&path)) {
            let name = name.to_str().unwrap();
            let full = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            let kind = fs::symlink_metadata(root.join(&full)).unwrap().file_type();
            if kind.is_dir() {
                lines.push(format!("{full}/"));
                waiting.push(full);
            } else {
                let content = fs::read_to_string(root.join(&full)).unwrap();
                lines.push(format!("{full} = {content}"));
            }
        }
    }
    lines.sort();
    lines
}

#[test]
fn layers_whiteouts_and_links_give_one_tree() {
    let place = Workplace::new();
    make_layer(&place, "base", &["etc/kept", "etc/gone", "lib/old/a", "lib/old/b", "var/x/y"]);
    make_layer(&place, "middle", &["etc/.wh.gone", "etc/added", "lib/old/.wh..wh..opq", "lib/old/c"]);
    make_layer(&place, "top", &[".wh.var", "var/x/new", "etc/kept"]);
    let layers = [
        add_layer(&place, "layout", "base", ""),
        add_layer(&place, "layout", "middle", "gzip"),
        add_layer(&place, "layout", "top", "zstd"),
    ];
    write_index(&place, "layout", &[("one", &layers.iter().collect::<Vec<_>>())]);
    let answer = place.prepared("oci:layout -o out/image");
    let mounted = place.mounted(&answer);
    let expected = [
        "etc/",
        "etc/added = middle: etc/added",
        "etc/kept = top: etc/kept",
        "lib/",
        "lib/old/",
        "lib/old/c = middle: lib/old/c",
        "var/",
        "var/x/",
        "var/x/new = top: var/x/new",
    ];
    assert_eq!(shown(mounted.folder()), expected);
    assert_eq!(data_files(&answer).len(), 3);
    let inspected = place.pinhole("inspect out/image --verify-data");
    assert_eq!(inspected.code, Some(0), "{}", inspected.stdout);
}

#[test]
fn link_to_a_lower_layer_is_one_inode_there() {
    use std::os::unix::fs::MetadataExt as _;
    let place = Workplace::new();
    make_layer(&place, "base", &["bin/tool"]);
    make_layer(&place, "top", &["bin/"]);
    let base = add_layer(&place, "layout", "base", "");
    place.host("cp", &["-a", "base/bin/tool", "top/bin/tool"]);
    fs::hard_link(place.path("top/bin/tool"), place.path("top/bin/zlink")).unwrap();
    place.host("tar", &["--numeric-owner", "-C", "top", "-cf", "both.tar", "bin/tool", "bin/zlink"]);
    // Without its first entry (a header and one block), the archive has only the hard link.
    let both = fs::read(place.path("both.tar")).unwrap();
    let top = add_blob(&place, "layout", "application/vnd.oci.image.layer.v1.tar", &both[1024..]);
    write_index(&place, "layout", &[("one", &[&base, &top])]);
    let answer = place.prepared("oci:layout:one -o out/image");
    assert_eq!(data_files(&answer).len(), 1, "the top layer has no data");
    let mounted = place.mounted(&answer);
    let status = |name: &str| fs::metadata(mounted.folder().join(name)).unwrap();
    let (tool, link) = (status("bin/tool"), status("bin/zlink"));
    assert_eq!((tool.ino(), tool.nlink()), (link.ino(), 2));
    assert_eq!(fs::read_to_string(mounted.folder().join("bin/zlink")).unwrap(), "base: bin/tool");
}

#[test]
fn images_with_the_same_layer_share_its_data_file() {
    let place = Workplace::new();
    for layer in ["base", "a", "b"] {
        make_layer(&place, layer, &["file", layer]);
    }
    let [base, a, b] = ["base", "a", "b"].map(|layer| add_layer(&place, "layout", layer, "gzip"));
    write_index(
        &place,
        "layout",
        &[("a", &[&base, &a]), ("b", &[&base, &b]), ("twice", &[&base, &a, &base])],
    );
    fs::create_dir(place.path("layers")).unwrap();
    let first = place.prepared("oci:layout:a -o out/a --data-dir layers");
    let second = place.prepared("oci:layout:b -o out/b --data-dir layers");
    let reused = |answer: &Value| -> Vec<bool> {
        answer["data_files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["reused"].as_bool().unwrap())
            .collect()
    };
    assert_eq!((reused(&first), reused(&second)), (vec![false, false], vec![true, false]));
    assert_eq!(data_files(&first)[0], data_files(&second)[0]);
    assert_eq!(names(&place.path("layers")).len(), 3);
    assert_eq!(names(&place.path("out")), ["a", "b"]);
    let twice = place.prepared("oci:layout:twice -o out/twice --data-dir layers");
    assert_eq!(reused(&twice), [true, true]);
    assert_eq!(fs::read_to_string(place.mounted(&twice).folder().join("file")).unwrap(), "base: file");
    let line = place.refused("oci:layout -o out/c");
    assert!(
        line.contains("it has several images; give one with oci:DIR:TAG; there is \"a\", \"b\""),
        "{line}"
    );
}

#[test]
fn damaged_layer_leaves_nothing_behind() {
    let place = Workplace::new();
    make_layer(&place, "base", &["file"]);
    make_layer(&place, "top", &["other"]);
    let (base, top) = (add_layer(&place, "layout", "base", ""), add_layer(&place, "layout", "top", ""));
    write_index(&place, "layout", &[("one", &[&base, &top])]);
    let digest = top["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let blob = place.path(&format!("layout/blobs/sha256/{digest}"));
    let mut bytes = fs::read(&blob).unwrap();
    let content = bytes.windows(10).position(|window| window == b"top: other").unwrap();
    bytes[content] = b'T';
    fs::write(&blob, bytes).unwrap();
    let line = place.refused("oci:layout -o out/image");
    assert!(line.contains(digest) && line.contains("its digest is "), "{line}");
}
