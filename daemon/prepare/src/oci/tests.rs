//! Tests of OCI image layouts: choice of the image, layers, damaged and hostile blobs.

use super::*;
use crate::fixture::{TarFixture, Unseen};
use crate::hex::Hex;
use crate::output::TemporaryNames;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Write as _;

/// A layout in a folder of its own.
struct Layout(tempfile::TempDir);

impl Layout {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        Self(directory)
    }

    /// Adds a blob, and returns its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Hex(&Sha256::digest(bytes)).to_string();
        fs::write(self.0.path().join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    fn layer(&self, tar: &[u8]) -> Value {
        self.blob("application/vnd.oci.image.layer.v1.tar", tar)
    }

    fn manifest(&self, layers: &[Value]) -> Value {
        let manifest = json!({"schemaVersion": 2, "layers": layers}).to_string();
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
    }

    fn index(&self, manifests: &[Value]) {
        fs::write(self.0.path().join("index.json"), json!({"manifests": manifests}).to_string()).unwrap();
    }

    fn choose(&self, tag: Option<&str>) -> Result<OciImage, PrepareError> {
        OciImage::choose(self.0.path(), tag)
    }

    /// Reads the image, and returns its tree and the digests of its data files.
    fn read(&self, tag: Option<&str>) -> Result<(LayerTree, Vec<Option<String>>), PrepareError> {
        let image = self.choose(tag)?;
        let output = tempfile::tempdir().unwrap();
        let folder = Folder::open(output.path(), &TemporaryNames::default())?;
        let mut tree = LayerTree::new();
        let files = image.read(&mut tree, (&folder, Align::Page), &mut Unseen)?;
        assert_eq!(fs::read_dir(output.path()).unwrap().count(), 0);
        Ok((tree, files.into_iter().map(|file| file.map(|file| file.digest.to_string())).collect()))
    }
}

fn with(mut descriptor: Value, field: &str, value: Value) -> Value {
    descriptor[field] = value;
    descriptor
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn tagged(descriptor: Value, tag: &str) -> Value {
    with(descriptor, "annotations", json!({"org.opencontainers.image.ref.name": tag}))
}

fn has(tree: &LayerTree, name: &str) -> bool {
    tree.directory(crate::tree::ROOT).unwrap().children.contains_key(name.as_bytes())
}

#[test]
fn layers_of_all_compressions_are_applied_in_order() {
    let layout = Layout::new();
    let base = TarFixture::default().file("a", b"1").file("b", b"2").end();
    let middle = gzip(&TarFixture::default().file(".wh.a", b"").file("c", b"3").end());
    let two = TarFixture::default().file("d", b"4").end();
    let (front, back) = two.split_at(700);
    let empty_frame = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
    let top = [&empty_frame[..], &zstd(front), empty_frame, &zstd(back)].concat();
    let layers = [
        layout.layer(&base),
        layout.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", &middle),
        layout.blob("application/vnd.oci.image.layer.v1.tar+zstd", &top),
    ];
    layout.index(&[layout.manifest(&layers)]);
    let (tree, digests) = layout.read(None).unwrap();
    let names: Vec<_> = ["a", "b", "c", "d"].into_iter().filter(|name| has(&tree, name)).collect();
    assert_eq!(names, ["b", "c", "d"]);
    assert_eq!(digests.iter().flatten().count(), 3);
}

#[test]
fn image_is_chosen_by_tag_then_by_platform() {
    let layout = Layout::new();
    let image = |name: &str| layout.manifest(&[layout.layer(&TarFixture::default().file(name, b"").end())]);
    let on = |descriptor, architecture: &str| {
        with(descriptor, "platform", json!({"os": "linux", "architecture": architecture}))
    };
    let host = json::host_platform();
    let host = host.strip_prefix("linux/").unwrap();
    let nested = json!({
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [on(image("other"), "s390x"), on(image("nested"), host), on(image("a"), "unknown")],
    });
    let nested = layout.blob("application/vnd.oci.image.index.v1+json", nested.to_string().as_bytes());
    layout.index(&[tagged(nested, "multi"), tagged(image("one"), "docker.io/one:1")]);
    assert!(has(&layout.read(Some("multi")).unwrap().0, "nested"));
    assert!(has(&layout.read(Some("docker.io/one:1")).unwrap().0, "one"));
    let error = layout.choose(Some("none")).unwrap_err().to_string();
    assert!(
        error.contains("no image is tagged \"none\"; there is \"multi\", \"docker.io/one:1\""),
        "{error}"
    );
    let error = layout.choose(None).unwrap_err().to_string();
    assert!(error.contains("several images; give one with oci:DIR:TAG; there is \"multi\""), "{error}");
    layout.index(&[on(image("x"), "s390x"), on(image("y"), "riscv64")]);
    let error = layout.choose(None).unwrap_err().to_string();
    assert!(
        error.contains(&format!("no image is for linux/{host}; there is one for linux/s390x")),
        "{error}"
    );
}

#[test]
fn blobs_are_compared_with_digest_and_size() {
    let layout = Layout::new();
    let tar = TarFixture::default().file("a", b"1").end();
    let layer = layout.layer(&tar);
    let path = layout
        .0
        .path()
        .join("blobs/sha256")
        .join(layer["digest"].as_str().unwrap().trim_start_matches("sha256:"));
    layout.index(&[layout.manifest(std::slice::from_ref(&layer))]);
    let mut damaged = tar.clone();
    damaged[513] = b'x';
    fs::write(&path, &damaged).unwrap();
    assert!(layout.read(None).unwrap_err().to_string().contains("its digest is "));
    fs::write(&path, &tar[..1024]).unwrap();
    assert!(layout.read(None).unwrap_err().to_string().contains("its size is 1024, not 2048"));
    fs::remove_file(&path).unwrap();
    assert!(layout.read(None).unwrap_err().to_string().contains("cannot read it"));
}

#[test]
fn hostile_layouts_are_refused_by_name() {
    let layout = Layout::new();
    let layer = layout.layer(&TarFixture::default().file("a", b"").end());
    let manifest = |layer: Value| layout.manifest(&[layer]);
    let index = |text: &str| fs::write(layout.0.path().join("index.json"), text).unwrap();
    let refused = |expected: &str| {
        let error = layout.read(None).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{expected}: {error}");
    };
    for digest in ["sha256:../../etc/passwd", "sha512:ab", "sha256:AB", "sha256:"] {
        layout.index(&[manifest(with(layer.clone(), "digest", json!(digest)))]);
        refused("is not the digest of a blob; only sha256:");
    }
    layout.index(&[manifest(with(layer.clone(), "mediaType", json!("application/vnd.in-toto+json")))]);
    refused("layer 0 is of type \"application/vnd.in-toto+json\"; only tar");
    layout.index(&[manifest(with(layer.clone(), "size", json!(-1)))]);
    refused("entry 0 of \"layers\" has no \"size\"");
    layout.index(&[layout.manifest(&vec![layer; 300])]);
    refused("it has 300 layers; at most 256");
    index("[]");
    refused("not a JSON object; give an OCI image layout");
    index(&"[".repeat(10_000));
    refused("not valid JSON");
    index("{}");
    refused("it has no list \"manifests\"");
    index(&" ".repeat(5 << 20));
    refused("it has 5242880 bytes; at most 4194304");
    layout.index(&[]);
    refused("there is no image");
}

#[test]
fn indexes_within_indexes_are_limited() {
    let layout = Layout::new();
    let kind = "application/vnd.oci.image.index.v1+json";
    let mut image = layout.manifest(&[]);
    for _level in 0..limits::INDEX_DEPTH_MAX {
        image = layout.blob(kind, json!({"mediaType": kind, "manifests": [image]}).to_string().as_bytes());
    }
    layout.index(&[image]);
    assert!(layout.choose(None).unwrap_err().to_string().contains("within one another 4 times"));
}

#[test]
fn compressed_garbage_is_an_error() {
    let layout = Layout::new();
    let tar = TarFixture::default().file("a", &[7; 5000]).end();
    let mut wrong_checksum = gzip(&tar);
    let at = wrong_checksum.len() - 6;
    wrong_checksum[at] ^= 1;
    let mut wrong_zstd = zstd(&tar);
    let at = wrong_zstd.len() - 1;
    wrong_zstd[at] ^= 1;
    let cut = gzip(&tar)[..30].to_vec();
    let zeros = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 0xff, 0xff];
    let empty_frames = b"\x50\x2a\x4d\x18\0\0\0\0".repeat(2000);
    for bytes in [wrong_checksum, wrong_zstd, cut, zeros, empty_frames, b"BZh91AY".to_vec()] {
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        layout.index(&[layout.manifest(&[layout.blob(kind, &bytes)])]);
        let error = layout.read(None).unwrap_err();
        assert!(matches!(error, PrepareError::Archive(_)), "{error}");
    }
}
