//! Does Linux under QEMU map files correctly?
//!
//! Programs load, store, read and write through a window that is smaller than the file. Two guests
//! map one file. A guest stores into the window of a read-only share.
//!
//! QEMU maps only whole multiples of 2 MiB and only files that may be written. So the files here
//! have such lengths, and `--dax=always` declares that their lengths are right.

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::guest::{Device, Guest, Parts, Share};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Length of a mapping in bytes.
const SLOT: u64 = 2 << 20;
/// Length of a page in bytes.
const PAGE: u64 = 4096;
/// Number of request queues that the daemon announces and the device offers.
const REQUEST_QUEUES: u16 = 2;

/// Returns the program of the guests, built as a static program by the compiler of the userland.
fn program() -> &'static [u8] {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::pinhole(folder.path()).unwrap().argument("--tag=out").start().unwrap();
        let made = Guest::uml()
            .userland()
            .share(daemon.socket(), "out")
            .file("window.c", 0o644, include_bytes!("scripts/window.c"))
            .run("gcc -O2 -Wall -static -o /mnt/out/window /extra/window.c")
            .unwrap();
        assert_eq!(made.exit_code, 0, "{}", made.text());
        fs::read(folder.path().join("window")).unwrap()
    })
}

/// Starts a daemon with a DAX window, which `arguments` describe.
fn serve(shared: &Path, tag: &str, arguments: &[&str]) -> Serving {
    let daemon = Daemon::pinhole(shared).unwrap().argument(format!("--tag={tag}"));
    let daemon = daemon.argument(format!("--num-request-queues={REQUEST_QUEUES}")).argument("--dax=always");
    let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument));
    daemon.confined_to(shared).start().unwrap()
}

/// Returns the device of a daemon's share, which supports DAX.
fn share(daemon: &Serving, tag: &str, options: &str) -> Share {
    Share::new(daemon.socket(), tag).device(Device::TestPci).request_queues(REQUEST_QUEUES).options(options)
}

/// Describes a guest with the program `window`.
fn guest() -> Guest {
    Guest::qemu().memory_mib(512).file("window", 0o755, program())
}

/// Makes a file in which every word is a different number.
fn make_file(path: &Path, len: u64) {
    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
    let mut word = 1_u64;
    for _ in 0..len / 8 {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        file.write_all(&word.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

/// Returns the 64-bit word at the offset `at`.
fn word_at(file: &fs::File, at: u64) -> u64 {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, at).unwrap();
    u64::from_le_bytes(word)
}

/// Returns what `window sum` prints for a file: a hash of the first word of each page, in steps of
/// `stride` pages.
fn sum(path: &Path, stride: u64) -> String {
    let file = fs::File::open(path).unwrap();
    let pages = file.metadata().unwrap().len() / PAGE;
    let order = (0..stride).flat_map(|first| (first..pages).step_by(usize::try_from(stride).unwrap()));
    let mixed = order.fold(0xcbf2_9ce4_8422_2325_u64, |sum, page| {
        (sum ^ word_at(&file, page * PAGE)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{mixed:016x}")
}

/// Returns the MD5 sum of a file.
fn md5(path: &Path) -> String {
    let said = Command::new("md5sum").arg(path).output().unwrap();
    String::from_utf8(said.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// Returns the size of a process's mapped pages of a file in KiB: all pages (RSS), and its part of
/// pages that other processes map too (PSS).
fn resident_kib(process: u32, name: &str) -> (u64, u64) {
    let map = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let mut within = false;
    let mut sums = (0, 0);
    for line in map.lines() {
        if line.contains('-') && line.split(' ').next().is_some_and(|word| !word.ends_with(':')) {
            within = line.ends_with(&format!("/{name}"));
        }
        let number = || line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        if within && line.starts_with("Rss:") {
            sums.0 += number();
        }
        if within && line.starts_with("Pss:") {
            sums.1 += number();
        }
    }
    sums
}

#[test]
fn programs_use_a_window_smaller_than_the_file() {
    // Under TCG a mapping takes milliseconds, so only one mount has the large file. Three passes
    // over the file map each slot three times.
    let folders = [("inode", 256 << 20), ("always", 32 << 20)];
    let folders = folders.map(|(tag, len)| (tag, len, tempfile::tempdir().unwrap()));
    let script = "set -e; for m in inode always; do cd /mnt/$m\n\
        /extra/window is-dax big; /extra/window sum big 1; /extra/window sum big 3\n\
        /extra/window stamp big 0x1000; dd if=/extra/window of=big bs=4096 seek=5000 count=100 conv=notrunc 2>/dev/null\n\
        md5sum < big | cut -c1-32; /extra/window cut cut; cp /extra/window copy; echo more >> copy; md5sum 2>&1 < copy | cut -c1-32\n\
        mv cut moved; /extra/window sum moved 1; rm moved; ls | sort | tr '\\n' ' '; echo; done";
    let mut described = guest();
    let mut daemons = Vec::new();
    let mut before = Vec::new();
    for (tag, len, folder) in &folders {
        let (big, cut) = (folder.path().join("big"), folder.path().join("cut"));
        make_file(&big, *len);
        make_file(&cut, 2 * SLOT);
        before.push([sum(&big, 1), sum(&big, 3)]);
        let daemon = serve(folder.path(), tag, &["--dax-window=16M"]);
        described = described.attach(share(&daemon, tag, &format!("dax={tag}")));
        daemons.push(daemon);
    }
    let finished = described.run(script).unwrap();
    let text = finished.text();
    assert_eq!(finished.exit_code, 0, "{text}\n{}", daemons[0].stderr());
    let windows = finished.kernel_log.matches("Cache len: 0x1000000").count();
    assert_eq!(windows, 2, "{}", finished.kernel_log);
    let lines: Vec<&str> = text.lines().collect();
    for ((share, (tag, len, folder)), sums) in lines.chunks(9).zip(&folders).zip(&before) {
        assert_eq!(share[0], "dax", "{text}");
        assert_eq!(&share[1..3], sums, "{text}");
        let (big, copy) = (folder.path().join("big"), folder.path().join("copy"));
        assert_eq!(share[3], "stamped", "{text}");
        let file = fs::File::open(&big).unwrap();
        for page in (0..len / PAGE).filter(|page| !(5000..5100).contains(page)) {
            assert_eq!(word_at(&file, page * PAGE + 8), 0x1000 + page * PAGE, "page {page}");
        }
        let mut written = vec![0; 100 * 4096];
        file.read_exact_at(&mut written, 5000 * PAGE).unwrap();
        assert_eq!(written, program()[..100 * 4096]);
        assert_eq!(share[4], md5(&big), "{text}");
        // QEMU cannot map `copy`, whose length is not a multiple of a slot. With dax=inode the
        // guest reads it by READ. With dax=always the guest tries to map it and gets an error.
        let copied = if *tag == "inode" { md5(&copy) } else { "md5sum: can't read '-': Input/ou".to_owned() };
        assert_eq!(share[6], copied, "{text}");
        assert!(share[5].ends_with(" then 0") && !share[5].starts_with("0 "), "{text}");
        assert_eq!(share[8].trim(), "big copy", "{text}");
    }
}

#[test]
fn guest_loads_stores_of_another_without_system_call() {
    const TURNS: u64 = 2000;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("page"), vec![0xff; 2 << 20]).unwrap();
    let daemons = [(); 2].map(|()| serve(folder.path(), "s", &["--dax-window=16M"]));
    let script = |word: &str| {
        format!(
            "set -e; cd /mnt/s; /extra/window is-dax page; /extra/window {word} page {TURNS}; until [ -e seen ]; do sleep 0.1; done"
        )
    };
    let start = |daemon: &Serving, options: &str, word: &str| {
        guest().cpus(1).attach(share(daemon, "s", options)).start(&script(word)).unwrap()
    };
    let asks = start(&daemons[0], "dax=inode", "ask");
    let answers = start(&daemons[1], "dax=always", "answer");
    let mut running = [asks, answers];
    for guest in &mut running {
        guest.wait_for_output("us each").unwrap();
    }
    // Both guests have the page in memory, and it exists once.
    for guest in &running {
        let (resident, proportional) = resident_kib(guest.id(), "page");
        assert!(resident >= 4 && proportional * 2 <= resident, "{proportional} KiB of {resident}");
    }
    fs::write(folder.path().join("seen"), "").unwrap();
    for running in running {
        let finished = running.wait().unwrap();
        let text = finished.text();
        assert_eq!(finished.exit_code, 0, "{text}");
        assert!(text.starts_with("dax\nready\n"), "{text}");
        println!("{text}");
    }
    let file = fs::File::open(folder.path().join("page")).unwrap();
    assert_eq!([64 * 8, 128 * 8].map(|at| word_at(&file, at)), [TURNS; 2]);
}

#[test]
fn fio_in_two_guests_verifies_stores_of_both() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["file0", "file1"] {
        make_file(&folder.path().join(name), 4 * SLOT);
    }
    let userland = Parts::locate().userland().unwrap();
    // Each guest stores into its own file (fio's mmap engine writes a job with an offset to the
    // start of the file). When both are done, each verifies the file of the other.
    let script = |own: u8, other: u8| {
        format!(
            "set -e; cd /mnt; /extra/window is-dax s/file0; mount -o bind s user/mnt; mount -t tmpfs tmp user/tmp\n\
             verified() {{ n=$1; shift; chroot user fio --name=stored --filename=/mnt/file$n --ioengine=mmap --thread \\\n\
             --rw=randwrite --bs=4k --size=8M --randseed=$((n + 7)) --allow_file_create=0 \\\n\
             --verify=crc32c --verify_fatal=1 --verify_state_save=0 --minimal \"$@\" > /tmp/fio 2>&1 ||\n\
             {{ cat /tmp/fio; exit 1; }}; if grep -i -e bad -e err= /tmp/fio; then exit 1; fi; }}\n\
             verified {own} --do_verify=1; echo stored; touch s/{own}; until [ -e s/{other} ]; do sleep 0.1; done\n\
             verified {other} --verify_only; echo found"
        )
    };
    let served = [(0, 1), (1, 0)].map(|(own, other)| {
        let daemon = serve(folder.path(), "s", &["--dax-window=16M"]);
        let programs =
            Daemon::pinhole(&userland).unwrap().argument("--tag=user").argument("--profile=rootfs");
        let programs = programs.argument("--cache=always").start().unwrap();
        let guest = guest().cpus(1).attach(share(&daemon, "s", "dax=inode"));
        let guest = guest.share(programs.socket(), "user").start(&script(own, other)).unwrap();
        (guest, daemon, programs)
    });
    for (guest, _daemon, _programs) in served {
        let finished = guest.wait().unwrap();
        assert_eq!((finished.exit_code, finished.text().as_str()), (0, "dax\nstored\nfound\n"));
    }
}

#[test]
fn read_only_share_cannot_be_written_through_the_window() {
    // A guest with a hostile kernel stores into the window directly, slot by slot. The effect on
    // the writable share shows that this memory is the window.
    let stores = "dmesg | sed -n 's/.*virtiofs virtio\\([0-9]\\): Cache len: .* @ 0x\\([0-9a-f]*\\).*/\\1 \\2/p' | sort |\n\
        while read device base; do slot=0; while [ $slot -lt 8 ]; do\n\
        echo $device $(/extra/window store-physical $((0x$base + slot * 2097152)) 2>&1); slot=$((slot + 1)); done; done";
    let script = format!(
        "cd /mnt/kept; /extra/window is-dax file; md5sum < file | cut -c1-32; /extra/window store file\n\
         echo x 2>&1 > file; mount -o remount,rw /mnt/kept; /extra/window store file\n\
         mkdir /mnt/forced; mount -t virtiofs -o dax=always kept /mnt/forced; cat /mnt/forced/file | wc -c\n\
         /extra/window store /mnt/forced/file; cd /mnt/free; /extra/window is-dax file; /extra/window sum file 1\n{stores}"
    );
    let [kept, free] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for folder in [&kept, &free] {
        make_file(&folder.path().join("file"), 4 * SLOT);
    }
    let before = md5(&kept.path().join("file"));
    let daemons = [
        serve(kept.path(), "kept", &["--dax-window=16M", "--profile=rootfs"]),
        serve(free.path(), "free", &["--dax-window=16M"]),
    ];
    let finished = guest()
        .kernel_option("iomem=relaxed")
        .attach(share(&daemons[0], "kept", "dax=inode"))
        .attach(share(&daemons[1], "free", "dax=inode"))
        .run(&script)
        .unwrap();
    let text = finished.text();
    assert!(text.starts_with(&format!("no dax\n{before}\n")), "served by READ: {text}");
    assert_eq!(md5(&kept.path().join("file")), before, "{text}");
    assert!(!text.lines().any(|line| line == "stored"), "{text}");
    let free = fs::File::open(free.path().join("file")).unwrap();
    let reached = (0..4).filter(|slot| word_at(&free, slot * SLOT) == 0x676f_7463_6861).count();
    assert_eq!(reached, 4, "{text}\n{}", finished.kernel_log);
    println!("{text}");
}
