//! Does a real guest get the results of a local file system, and does the host see exactly what the
//! guest did?
//! One boot runs every case of `scripts` twice: on pinhole and on an ext4 image of the guest. Each
//! test here checks one case. A second boot runs the quick cases in the other cache modes.
//! [`DIFFERENCES`] lists the permitted differences, and docs/use/compatibility.md explains them.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::OnceLock;

use super::cases::{Shared, boot, serve};
use super::host_view::HostView;
use super::report::{Difference, Report};

/// Differences between a share and a local ext4. Each has its paragraph in
/// docs/use/compatibility.md.
const DIFFERENCES: [Difference; 7] = [
    // Linux's FUSE refuses both modes without a request.
    Difference {
        places: &["plain", "never", "strict", "exclusive", "metadata", "writeback"],
        case: "fallocate_shifts",
        share: &["collapse: ENOTSUP", "collapsed: ABCDEFGH", "insert: ENOTSUP", "inserted: ABCDEFGH"],
        ends_early: false,
    },
    // A shared mapping is a cache of data, which these modes forbid without --allow-mmap.
    Difference {
        places: &["never", "metadata"],
        case: "mmap_shared",
        share: &["mapping: ENODEV"],
        ends_early: true,
    },
    Difference {
        places: &["never", "metadata"],
        case: "sparse_copies",
        share: &["mapping: ENODEV"],
        ends_early: true,
    },
    // A program that could have mapped the file for writing gets no holes: its kernel may have data
    // there.
    Difference {
        places: &["plain", "strict"],
        case: "sparse_file",
        share: &["data at for a writer: [(0, 100)]"],
        ends_early: false,
    },
    // Programs get no holes if the guest's kernel caches data across opens.
    Difference {
        places: &["exclusive"],
        case: "sparse_file",
        share: &[
            "data at: [(0, 100)]",
            "hole from 5: 100",
            "data past the last: 266240",
            "data at for a writer: [(0, 100)]",
        ],
        ends_early: false,
    },
    Difference {
        places: &["exclusive", "writeback"],
        case: "fallocate_ranges",
        share: &["data at: [(0, 16)]"],
        ends_early: false,
    },
    // The same applies here. In addition, the guest's kernel does not request the number of blocks
    // again before the attribute timeout.
    Difference {
        places: &["writeback"],
        case: "sparse_file",
        share: &[
            "data at: [(0, 100)]",
            "hole from 5: 100",
            "data past the last: 266240",
            "data at for a writer: [(0, 100)]",
            "size and blocks: (409600, 0)",
        ],
        ends_early: false,
    },
];

/// Script of the first boot.
const ALL_CASES: &str = "
    posix run plain /mnt/plain plain
    posix run rich /mnt/rich rich
    posix run local /mnt/local plain rich
    echo '@ two two_mounts'; python3 -B /extra/two_mounts.py /mnt/plain /mnt/twin /mnt/rich; echo '@ end'
    echo '@ plain statfs_numbers'; stat -f -c '%S %b %l' /mnt/plain; echo '@ end'
    sync
    echo '@ plain manifest'; posix manifest /mnt/plain; echo '@ end'
    echo '@ rich manifest'; posix manifest /mnt/rich; echo '@ end'
    ";

/// Profile with all operations of a local directory. `profiles.rs` tests the other profiles.
const FULL: &[&str] = &["--profile=full"];

/// Daemons of the second boot: tag and arguments.
const MODES: [(&str, &[&str]); 5] = [
    ("never", &["--profile=full", "--cache=never"]),
    ("strict", &["--profile=full", "--cache=strict"]),
    ("exclusive", &["--profile=full", "--cache=exclusive"]),
    ("metadata", &["--profile=full", "--cache=metadata"]),
    ("writeback", &["--profile=full", "--writeback"]),
];

/// Results of the first boot: a share `plain` in the default mode, a second share `twin` of the
/// same folder, and a share `rich` with the optional features.
struct DefaultBoot {
    report: Report,
    plain: HostView,
    rich: HostView,
    /// Line that the case `statfs_numbers` must print.
    host_statfs: String,
}

/// Returns the first boot.
fn in_default_mode() -> &'static DefaultBoot {
    static BOOTED: OnceLock<DefaultBoot> = OnceLock::new();
    BOOTED.get_or_init(|| {
        let (plain, rich) = (Shared::new(), Shared::new());
        let daemons = vec![
            ("plain", serve(&plain.path, "plain", FULL)),
            ("twin", serve(&plain.path, "twin", FULL)),
            ("rich", serve(&rich.path, "rich", &["--profile=full", "--xattr", "--posix-acl"])),
        ];
        let report = boot(ALL_CASES, daemons);
        let host = rustix::fs::statvfs(&plain.path).unwrap();
        DefaultBoot {
            report,
            plain: HostView::of(&plain.path),
            rich: HostView::of(&rich.path),
            host_statfs: format!("{} {} {}", host.f_frsize, host.f_blocks, host.f_namemax),
        }
    })
}

/// Returns the second boot: the quick cases in every other mode.
fn in_other_modes() -> &'static (Report, Vec<HostView>) {
    static BOOTED: OnceLock<(Report, Vec<HostView>)> = OnceLock::new();
    BOOTED.get_or_init(|| {
        let folders: Vec<_> = MODES.iter().map(|_| Shared::new()).collect();
        let serve_mode = |((tag, arguments), folder): (&(&'static str, &[&str]), &Shared)| {
            (*tag, serve(&folder.path, tag, arguments))
        };
        let daemons = MODES.iter().zip(&folders).map(serve_mode).collect();
        let mut script = "posix run local /mnt/local quick\n".to_owned();
        for (tag, _) in MODES {
            let quick = format!("posix run {tag} /mnt/{tag} quick\nsync\n");
            let manifest = format!("echo '@ {tag} manifest'; posix manifest /mnt/{tag}; echo '@ end'\n");
            script.extend([quick, manifest]);
        }
        let report = boot(&script, daemons);
        (report, folders.iter().map(|folder| HostView::of(&folder.path)).collect())
    })
}

/// Checks that the case had the same results on the share and on the guest's ext4. Returns the
/// boot, for checks on the host.
fn assert_as_on_a_local_directory(case: &str) -> &'static DefaultBoot {
    let booted = in_default_mode();
    let place = if booted.report.cases("rich").contains(&case) { "rich" } else { "plain" };
    let found = booted.report.differences(case, place, "local", &DIFFERENCES);
    assert!(found.is_empty(), "{}", found.join("\n"));
    booted
}

/// Checks that all quick cases have the results of the guest's ext4 in one cache mode, and that
/// guest and host see the same files.
fn assert_mode_is_as_local(tag: &str) {
    let (report, views) = in_other_modes();
    let cases: Vec<_> = report.cases("local");
    assert!(cases.len() > 20, "only {cases:?} ran: {}", report.ended);
    let found: Vec<_> =
        cases.iter().flat_map(|case| report.differences(case, tag, "local", &DIFFERENCES)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    let view = MODES.iter().zip(views).find(|((mode, _), _)| *mode == tag).unwrap().1;
    assert_same_manifest(report, tag, view);
}

/// Upper bound, with a writeback cache, on the difference between the host's modification time and
/// the guest's.
const LATER_MAX_NS: i128 = 1_000_000_000;

/// Checks that the guest's manifest of a share is that of the host.
fn assert_same_manifest(report: &Report, place: &str, view: &HostView) {
    let mut guest = report.lines(place, "manifest").to_vec();
    guest.sort();
    let host = view.manifest();
    assert!(guest.len() > 30, "{guest:?}");
    for (in_guest, on_host) in guest.iter().zip(&host) {
        let ((in_guest, shown), (on_host, kept)) = (without_time(in_guest), without_time(on_host));
        assert_eq!(in_guest, on_host, "hex path, mode, uid, gid, links, size, rdev, checksum on {place}");
        // The guest's kernel keeps the time of its own last write, in ticks of its clock, and does
        // not send it again for a write in the same tick. The host has the time at which the write
        // arrived.
        let is_late = place == "writeback" && (0..LATER_MAX_NS).contains(&(kept - shown));
        assert!(shown == kept || is_late, "modified {shown} in the guest, {kept} on the host: {on_host}");
    }
    assert_eq!(guest.len(), host.len());
    // A time that a program of the guest has set is exact in every mode.
    if place != "rich" {
        assert_eq!(view.at("times/open-to-all").modified_ns(), 1_600_000_000_000_000_002);
    }
}

/// Splits a line of a manifest into the line without its seventh field, and that field: the
/// modification time in nanoseconds.
fn without_time(line: &str) -> (String, i128) {
    let mut fields: Vec<_> = line.split(' ').collect();
    let time = fields.remove(6).parse().unwrap();
    (fields.join(" "), time)
}

#[test]
fn a_file_is_created_written_and_read() {
    let host = &assert_as_on_a_local_directory("create_read_write").plain;
    assert_eq!(host.at("create_read_write/file").permissions(), 0o644);
    let expected: Vec<u8> = (0..4096).flat_map(|_| 0..=255).collect();
    assert!(host.content("create_read_write/large") == expected);
}

#[test]
fn append_of_every_writer_goes_to_the_end() {
    let host = &assert_as_on_a_local_directory("append").plain;
    assert_eq!(host.content("append/log"), b"X12345end!?");
}

#[test]
fn truncation_shortens_and_extends_with_zeros() {
    let host = &assert_as_on_a_local_directory("truncate").plain;
    assert_eq!(host.at("truncate/file").status.len(), 0);
    assert_eq!(host.at("truncate/far").status.len(), (5 << 30) + 8);
}

#[test]
fn rename_replaces_the_old_file() {
    let host = &assert_as_on_a_local_directory("rename_over").plain;
    assert_eq!(host.content("rename_over/renamed/below/moved"), b"old");
    assert!(!host.has("rename_over/old") && !host.has("rename_over/full"));
}

#[test]
fn rename_supports_exchange_noreplace_and_whiteout() {
    let host = &assert_as_on_a_local_directory("rename_with_flags").plain;
    assert_eq!(host.content("rename_with_flags/b/inside"), b"inside");
    assert_eq!(host.content("rename_with_flags/folder"), b"a");
    let whiteout = &host.at("rename_with_flags/c").status;
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
}

#[test]
fn hard_links_are_one_file() {
    let host = &assert_as_on_a_local_directory("hard_links").plain;
    let (pointer, twin) = (host.at("hard_links/pointer"), host.at("hard_links/pointers-twin"));
    assert_eq!(pointer.status.ino(), twin.status.ino());
    assert_eq!(host.content("hard_links/two"), b"lin");
    assert_eq!(host.at("hard_links/two").permissions(), 0o600);
}

#[test]
fn guest_resolves_symbolic_links_with_unchanged_targets() {
    let host = &assert_as_on_a_local_directory("symbolic_links").plain;
    assert_eq!(host.content("symbolic_links/bytes"), b"\xff\xfe");
    assert_eq!(host.content("symbolic_links/absolute"), b"/proc/self/root/etc/passwd");
    assert_eq!(host.at("symbolic_links/link").status.uid(), 1234);
    assert_eq!(host.at("symbolic_links/file").status.uid(), 0);
}

#[test]
fn open_file_keeps_its_data_without_a_name() {
    let host = &assert_as_on_a_local_directory("unlink_while_open").plain;
    assert_eq!(host.content("unlink_while_open/file"), b"another");
}

#[test]
fn an_unnamed_file_gets_a_name_by_linkat() {
    let host = &assert_as_on_a_local_directory("unnamed_file_gets_a_name").plain;
    assert_eq!(host.content("unnamed_file_gets_a_name/named"), b"from nowhere, still writing");
    assert_eq!(host.at("unnamed_file_gets_a_name/named").permissions(), 0o640);
    assert!(!host.has("unnamed_file_gets_a_name/never"));
}

#[test]
fn fifos_sockets_and_devices_work_in_the_guest() {
    let host = &assert_as_on_a_local_directory("special_files").plain;
    assert!(host.at("special_files/fifo").status.file_type().is_fifo());
    assert!(host.at("special_files/socket").status.file_type().is_socket());
}

#[test]
fn device_nodes_are_made_and_used_in_the_guest() {
    let host = &assert_as_on_a_local_directory("device_nodes").plain;
    let device = &host.at("device_nodes/null").status;
    assert!(device.file_type().is_char_device());
    assert_eq!(device.rdev(), 0x103);
    assert!(host.at("device_nodes/disk").status.file_type().is_block_device());
}

#[test]
fn directories_are_made_listed_and_removed() {
    let host = &assert_as_on_a_local_directory("directories").plain;
    assert!(host.has("directories/a/299") && !host.has("directories/a/b"));
}

#[test]
fn modes_and_owners_hold_for_root_and_for_other_users() {
    let host = &assert_as_on_a_local_directory("modes_and_owners").plain;
    let users = host.at("modes_and_owners/users");
    assert_eq!((users.status.uid(), users.status.gid(), users.permissions()), (1000, 2000, 0o600));
    assert_eq!(host.at("modes_and_owners/roots").status.uid(), 4_000_000_000);
}

#[test]
fn privileged_bits_drop_on_write_truncation_and_chown() {
    let host = &assert_as_on_a_local_directory("privileges_drop").plain;
    assert_eq!(host.at("privileges_drop/given").permissions(), 0o755);
}

#[test]
fn new_files_get_the_group_of_a_setgid_directory() {
    let host = &assert_as_on_a_local_directory("setgid_directory").plain;
    let below = host.at("setgid_directory/shared/folder/below");
    assert_eq!((below.status.uid(), below.status.gid(), below.permissions()), (1000, 2000, 0o2755));
}

#[test]
fn sticky_directory_protects_files_of_other_users() {
    let host = &assert_as_on_a_local_directory("sticky_directory").plain;
    assert_eq!(host.at("sticky_directory/sticky").permissions(), 0o1777);
    assert!(host.has("sticky_directory/sticky/roots"));
}

#[test]
fn guest_applies_the_umask() {
    let host = &assert_as_on_a_local_directory("umasks").plain;
    assert_eq!(host.at("umasks/file-27").permissions(), 0o640);
    assert_eq!(host.at("umasks/folder-0").permissions(), 0o777);
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let host = &assert_as_on_a_local_directory("times").plain;
    let file = host.at("times/open-to-all");
    assert_eq!(file.modified_ns(), 1_600_000_000_000_000_002);
    assert_eq!((file.status.atime(), file.status.atime_nsec()), (1_600_000_000, 1));
    assert_eq!(host.at("times/link").modified_ns(), 2);
}

#[test]
fn statfs_describes_the_hosts_file_system() {
    let booted = assert_as_on_a_local_directory("statfs");
    assert_eq!(booted.report.lines("plain", "statfs_numbers"), std::slice::from_ref(&booted.host_statfs));
}

#[test]
fn statx_returns_the_birth_time() {
    assert_as_on_a_local_directory("birth");
}

#[test]
fn extended_attributes_are_kept() {
    let host = &assert_as_on_a_local_directory("extended_attributes").rich;
    let attributes = &host.at("extended_attributes/renamed").attributes;
    assert_eq!(attributes[b"user.one".as_slice()], b"second");
    assert_eq!(attributes[b"user.\xff\xfe".as_slice()], b"\x00\x01\x00");
}

#[test]
fn trusted_attributes_need_root_and_capabilities_drop_on_write() {
    let host = &assert_as_on_a_local_directory("attributes_of_the_system").rich;
    let attributes = &host.at("attributes_of_the_system/file").attributes;
    assert_eq!(attributes[b"trusted.secret".as_slice()], b"root only");
    assert!(!attributes.contains_key(b"security.capability".as_slice()));
}

#[test]
fn access_control_lists_grant_refuse_and_are_inherited() {
    let host = &assert_as_on_a_local_directory("access_control_lists").rich;
    let inherited = &host.at("access_control_lists/folder/file").attributes;
    assert!(inherited.contains_key(b"system.posix_acl_access".as_slice()));
    assert_eq!(host.at("access_control_lists/folder").permissions(), 0o2775);
}

#[test]
fn sparse_copies_contain_what_programs_stored() {
    let host = &assert_as_on_a_local_directory("sparse_copies").plain;
    for copy in ["cp", "tar"] {
        let content = host.content(format!("sparse_copies/{copy}"));
        assert_eq!(content.get(20 * 4096..20 * 4096 + 6), Some(b"stored".as_slice()), "{copy}");
    }
}

#[test]
fn a_sparse_file_stays_sparse_on_the_host() {
    let host = &assert_as_on_a_local_directory("sparse_file").plain;
    let status = &host.at("sparse_file/holes").status;
    assert_eq!(status.len(), 409_600);
    assert_eq!(status.blocks(), 24);
}

#[test]
fn ranges_are_punched_zeroed_and_reserved() {
    let host = &assert_as_on_a_local_directory("fallocate_ranges").plain;
    assert_eq!(host.at("fallocate_ranges/file").status.len(), 30 * 4096);
}

#[test]
fn fallocate_refuses_to_collapse_and_insert_ranges() {
    assert_as_on_a_local_directory("fallocate_shifts");
}

#[test]
fn ranges_are_copied_from_file_to_file() {
    let host = &assert_as_on_a_local_directory("copy_file_range").plain;
    assert_eq!(host.at("copy_file_range/target").status.len(), 5050);
}

#[test]
fn a_shared_mapping_is_the_file() {
    let host = &assert_as_on_a_local_directory("mmap_shared").plain;
    assert!(host.content("mmap_shared/file").starts_with(b"Zaaaaaaaaa"));
    assert!(host.content("mmap_shared/file").ends_with(&[b'a'; 4091]));
    assert_eq!(host.content("mmap_shared/file").get(8192..8197), Some(b"CHILD".as_slice()));
    assert_eq!(host.content("mmap_shared/short"), b"enD");
}

#[test]
fn a_private_mapping_is_a_copy() {
    let host = &assert_as_on_a_local_directory("mmap_private").plain;
    assert_eq!(host.content("mmap_private/file"), b"pppppppppp");
}

#[test]
fn direct_io_reads_and_writes_whole_blocks() {
    let host = &assert_as_on_a_local_directory("direct_io").plain;
    assert_eq!(host.at("direct_io/file").status.len(), 8 * 4096);
}

#[test]
fn syncing_succeeds_in_all_its_forms() {
    let host = &assert_as_on_a_local_directory("syncing").plain;
    assert_eq!(host.content("syncing/file"), b"DSYNCx");
}

#[test]
fn programs_run_from_the_share() {
    assert_as_on_a_local_directory("executing");
}

#[test]
fn locks_hold_between_the_processes_of_one_guest() {
    assert_as_on_a_local_directory("locks_between_processes");
}

#[test]
fn every_name_of_up_to_255_bytes_is_kept() {
    let host = &assert_as_on_a_local_directory("names").plain;
    assert_eq!(host.content(b"names/\xff\xfe\x80"), b"\xff\xfe\x80");
    assert!(host.has(&format!("names/{}", "m".repeat(255))));
    assert_eq!(host.content(b"names/new\nline"), b"new\nline");
}

#[test]
fn a_path_of_a_hundred_levels_is_walked() {
    let host = &assert_as_on_a_local_directory("deep_path").plain;
    let levels: Vec<_> = (0..100).map(|level| format!("level-{level:03}")).collect();
    assert_eq!(host.content(format!("deep_path/{}/bottom", levels.join("/"))), b"a hundred levels down");
}

#[test]
fn twenty_thousand_entries_are_listed_while_they_change() {
    let booted = assert_as_on_a_local_directory("many_entries");
    let lines = booted.report.lines("plain", "many_entries");
    assert_eq!(
        lines.get(1..4).unwrap().join(", "),
        "entries that stayed, seen: 19000, seen twice: 0, never seen: 0"
    );
}

#[test]
fn two_shares_are_separate_and_two_mounts_of_one_agree() {
    let booted = in_default_mode();
    let expected = [
        "seen by the twin: b'one'",
        "seen by the first: b'onetwo'",
        "renamed across: EXDEV",
        "linked across: EXDEV",
        "the other share: ['two-mounts-rich']",
        "names on both: True",
        "removed by the twin: ENOENT",
    ];
    assert_eq!(booted.report.lines("two", "two_mounts"), expected);
    assert_eq!(booted.plain.content("two-mounts"), b"onetwo");
    assert_eq!(booted.rich.content("two-mounts-rich"), b"elsewhere");
}

#[test]
fn the_share_is_an_overlays_lower_layer() {
    let host = &assert_as_on_a_local_directory("overlay_lower").rich;
    assert_eq!(host.content("overlay_lower/lower/file"), b"from below");
}

#[test]
fn the_share_is_an_overlays_upper_layer() {
    let host = &assert_as_on_a_local_directory("overlay_upper").rich;
    assert_eq!(host.content("overlay_upper/upper/file"), b"from below, changed above");
    let hidden = &host.at("overlay_upper/upper/hard").status;
    assert!(hidden.file_type().is_char_device());
    assert_eq!(hidden.rdev(), 0);
}

#[test]
fn the_host_sees_exactly_what_the_guest_sees() {
    let booted = in_default_mode();
    assert_same_manifest(&booted.report, "plain", &booted.plain);
    assert_same_manifest(&booted.report, "rich", &booted.rich);
}

#[test]
fn every_case_of_the_scripts_has_its_own_test() {
    let booted = in_default_mode();
    let source = include_str!("posix.rs");
    let without = booted
        .report
        .cases("local")
        .into_iter()
        .filter(|case| !source.contains(&format!("directory(\"{case}\")")));
    assert_eq!(without.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn daemons_end_with_their_guests_and_print_no_error() {
    for report in [&in_default_mode().report, &in_other_modes().0] {
        for (name, ended, stderr) in &report.daemons {
            assert_eq!(ended, "exit status: 0", "{name}: {stderr}");
            assert!(!stderr.contains("panicked") && !stderr.contains("ERROR"), "{name}: {stderr}");
        }
    }
}

#[test]
fn cases_have_local_results_with_cache_never() {
    assert_mode_is_as_local("never");
}

#[test]
fn cases_have_local_results_with_cache_strict() {
    assert_mode_is_as_local("strict");
}

#[test]
fn cases_have_local_results_with_cache_exclusive() {
    assert_mode_is_as_local("exclusive");
}

#[test]
fn cases_have_local_results_with_cache_metadata() {
    assert_mode_is_as_local("metadata");
}

#[test]
fn cases_have_local_results_with_writeback() {
    assert_mode_is_as_local("writeback");
}
