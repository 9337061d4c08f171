//! Does pinhole keep in every crash state what the backing file system keeps, and does the crash
//! suite notice a server that does not?
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pinhole_tests::daemon::pinhole_program;
use pinhole_tests::frontend::eventually;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pinhole-crash");

/// The fetched virtiofsd, without a sandbox that would need more of the host.
const VIRTIOFSD: &str = "{virtiofsd} --shared-dir {dir} --socket-path {socket} --sandbox none --xattr";

/// Result of a run.
struct Ended {
    code: Option<i32>,
    output: String,
    json: Value,
}

impl Ended {
    /// Returns the sum of a field over all file systems and subjects.
    fn sum(&self, field: &str) -> u64 {
        let results = self.json["results"].as_array().unwrap();
        results.iter().map(|row| row[field].as_u64().unwrap()).sum()
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("crash").args(arguments).env("PINHOLE_BIN", pinhole_program().unwrap());
    command
}

fn crash(arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let output = command(arguments).arg("--json").arg(&report).output().unwrap();
    let json = fs::read(&report).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ended { code: output.status.code(), output: text.concat(), json }
}

fn litmus(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("litmus");
    let path = if name.is_empty() { folder } else { folder.join(format!("{name}.litmus")) };
    path.display().to_string()
}

/// Plays all litmus files with a guest at the wire, in the given cache modes.
#[track_caller]
fn guarantees_hold(file_system: &str, modes: &str) {
    let ended = crash(&["--fs", file_system, "--cache", modes, "--states", "6", "--litmus", &litmus("")]);
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(ended.sum("held") > 60, "{}", ended.output);
}

#[test]
fn every_litmus_file_holds_on_ext4() {
    guarantees_hold("ext4", "strict,auto");
}

#[test]
fn every_litmus_file_holds_on_xfs() {
    guarantees_hold("xfs", "strict");
}

#[test]
fn every_litmus_file_holds_on_btrfs() {
    guarantees_hold("btrfs", "auto");
}

#[test]
fn sample_of_generated_programs_holds_in_other_modes() {
    let (programs, states) = (["--depth", "2", "--sample", "24"], ["--states", "6"]);
    for subject in
        [["--via", "daemon", "--cache", "exclusive,never"], ["--via", "mount", "--cache", "auto,writeback"]]
    {
        let ended = crash(&[programs.as_slice(), &states, &subject].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        assert!(ended.sum("held") > 20, "{}", ended.output);
    }
}

#[test]
fn second_native_run_keeps_the_facts_of_the_first() {
    let ended = crash(&["--native", "--random", "24", "--seed", "5"]);
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    // A fact that holds natively by chance is found out in the confirmation.
    assert!(ended.sum("held") >= 22, "{}", ended.output);
}

#[test]
fn server_without_syncs_is_caught_and_its_program_shortened() {
    let program =
        "write a 0 8192 o; mkdir d; create b; run; rename b d/b; write a 0 4096 x; chmod a 600; fsync a";
    let ended = crash(&["--native-unsynced", "--program", program]);
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    let found = &ended.json["violations"][0];
    let shortest = found["program"].as_str().unwrap();
    assert!(shortest.len() < 40 && shortest.ends_with("fsync a"), "{shortest}");
    let replay = found["replay"].as_str().unwrap();
    assert!(replay.ends_with(&format!("--native-unsynced --program '{shortest}'")), "{replay}");
    let again = crash(&["--native-unsynced", "--program", shortest]);
    assert_eq!(again.json["violations"][0]["program"], shortest, "{}", again.output);
    assert_eq!(crash(&["--native", "--program", shortest]).code, Some(0));
}

#[test]
fn virtiofsd_without_cache_loses_synchronous_calls() {
    let daemon = format!("{VIRTIOFSD} --cache never");
    let ended = crash(&[
        "--daemon",
        &daemon,
        "--litmus",
        &litmus("rwf-dsync-write"),
        "--litmus",
        &litmus("o-sync-write"),
    ]);
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert_eq!((ended.sum("held"), ended.sum("violated")), (1, 1), "{}", ended.output);
    assert_eq!(ended.json["violations"][0]["litmus"], "rwf-dsync-write");
}

#[test]
fn virtiofsd_without_inode_handles_loses_a_renamed_file_on_btrfs() {
    let daemon = format!("{VIRTIOFSD} --inode-file-handles=never");
    let (fs, litmus) = (["--fs", "btrfs", "--daemon", &daemon], litmus("lost-first-name-unlinked"));
    let ended = crash(&[fs.as_slice(), &["--litmus", &litmus]].concat());
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert!(ended.output.contains("d/e/c exists"), "{}", ended.output);
}

#[test]
fn wrong_litmus_file_is_an_error_and_no_violation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.litmus");
    fs::write(&path, "# Unsynced data is there\nrun:\n write a 0 4096 x\nholds:\n a exists\n").unwrap();
    let ended = crash(&["--native", "--litmus", path.to_str().unwrap()]);
    assert_eq!(ended.code, Some(2), "{}", ended.output);
    fs::write(&path, "# Title\nrun:\n jump\n").unwrap();
    let ended = crash(&["--native", "--litmus", path.to_str().unwrap()]);
    assert_eq!(ended.code, Some(2), "{}", ended.output);
    assert!(ended.output.contains("wrong.litmus:3: `jump` is no operation"), "{}", ended.output);
    assert_eq!(crash(&["--mount", "false {dir}", "--program", "sync"]).code, Some(2));
}

/// Returns the loop devices for crash states that process `id` has made.
fn loop_devices(id: u32) -> Vec<PathBuf> {
    let blocks = fs::read_dir("/sys/block").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let is_of = |path: &PathBuf| {
        let file = fs::read_to_string(path.join("loop/backing_file")).unwrap_or_default();
        file.trim().ends_with(&format!("state-{id}"))
    };
    blocks.filter(is_of).collect()
}

#[test]
fn killed_suite_leaves_no_loop_device_behind() {
    let mut child = command(&["--native", "--depth", "2", "--sample", "500"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = child.id();
    eventually("the suite has loop devices", || !loop_devices(id).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the loop devices are detached", || loop_devices(id).is_empty());
}
