//! Records the kernel functions that the threads of a daemon reach, with the kernel's function
//! tracer (`Documentation/trace/ftrace.rst`).
//!
//! The tracer follows the first process of the daemon and all its descendants (`function-fork`).
//! Its buffer holds a whole phase and is read at the end of the phase in binary form
//! (`trace_pipe_raw`, `include/linux/ring_buffer.h`), which loses no event. An overflow of the
//! buffer is an error. Functions that run in an interrupt are left out, because the daemon did not
//! ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::step::{Failure, Outcome};

/// Buffer size for each CPU, in KiB. A phase of the load fills a tenth of it.
const BUFFER_KIB: u32 = 256 << 10;

/// Length of a page of the buffer, in bytes.
const PAGE: usize = 4096;

/// Length of the header of a page, in bytes: a time stamp of 8 bytes, then the commit word of 8
/// bytes.
const PAGE_HEADER_LEN: usize = 16;

/// Bits of the commit word that contain the length of the events in the page, in bytes. The other
/// bits are flags.
const COMMIT_MASK: u64 = 0xf_ffff;

/// Value of `type_len` for space without an event (`include/linux/ring_buffer.h`).
const PADDING: u32 = 29;

/// Value of `type_len` for a long time difference, in a second word.
const TIME_EXTEND: u32 = 30;

/// Value of `type_len` for an absolute time, in a second word.
const TIME_STAMP: u32 = 31;

/// Bits of `common_flags` for hardware, software and non-maskable interrupts
/// (`include/linux/trace_events.h`).
const INTERRUPTED: u8 = 0x08 | 0x10 | 0x40;

/// Position of `ip` in an event, in the words of `events/ftrace/function/format`.
const IP_FIELD: &str = "field:unsigned long ip;\toffset:8;\tsize:8;";

/// Function tracer for one daemon. Dropping the value switches the tracer off.
#[derive(Debug)]
pub(crate) struct Tracer {
    /// Mount point of tracefs.
    folder: PathBuf,
    /// Names of kernel functions by address.
    names: BTreeMap<u64, String>,
}

impl Tracer {
    /// Prepares the tracer in `folder`, the mount point of tracefs, and leaves it off.
    ///
    /// # Errors
    /// Fails if a file of tracefs cannot be used, or the events of this kernel have another format.
    pub(crate) fn new(folder: &Path) -> Outcome<Self> {
        let mut tracer = Self { folder: folder.to_path_buf(), names: BTreeMap::new() };
        if !tracer.read_file("events/ftrace/function/format")?.contains(IP_FIELD) {
            return Err(Failure::new("the function events of this kernel have another format"));
        }
        tracer.names = parse_names(&tracer.read_file("available_filter_functions_addrs")?);
        for (file, value) in [
            ("tracing_on", "0"),
            ("current_tracer", "nop"),
            ("set_ftrace_pid", ""),
            ("options/function-fork", "1"),
            ("options/overwrite", "0"),
            ("buffer_size_kb", &BUFFER_KIB.to_string()),
            ("trace", ""),
            ("current_tracer", "function"),
        ] {
            tracer.write_file(file, value)?;
        }
        Ok(tracer)
    }

    /// Returns the start of a command line that traces the program after it, from the first
    /// function of the program on.
    pub(crate) fn traced_command(&self) -> [PathBuf; 4] {
        let folder = self.folder.display();
        let script = format!("echo $$ > {folder}/set_ftrace_pid; echo 1 > {folder}/tracing_on; exec \"$@\"");
        ["sh", "-c", &script, "sh"].map(PathBuf::from)
    }

    /// Ends a phase and switches tracing off. Returns the names of the functions that were reached,
    /// one for each address.
    ///
    /// # Errors
    /// Fails if a file of tracefs cannot be used, or the buffer was too small.
    pub(crate) fn end_phase(&self) -> Outcome<Vec<String>> {
        self.write_file("tracing_on", "0")?;
        let mut reached = BTreeSet::new();
        let listing = || Failure::io("cannot list the CPUs of the tracer");
        for cpu in fs::read_dir(self.folder.join("per_cpu")).map_err(listing())? {
            let cpu = cpu.map_err(listing())?.path();
            self.drain(&cpu, &mut reached)?;
            let stats = fs::read_to_string(cpu.join("stats"))
                .map_err(Failure::io("cannot read the statistics of the tracer"))?;
            if let Some(lost) = lost_events(&stats) {
                return Err(Failure::new(format!("the tracer's buffer was too small: {lost}")));
            }
        }
        Ok(reached.iter().map(|address| self.name(*address)).collect())
    }

    /// Begins the next phase.
    ///
    /// # Errors
    /// Fails if tracing cannot be switched on.
    pub(crate) fn begin_phase(&self) -> Outcome {
        self.write_file("tracing_on", "1")
    }

    /// Reads the buffer of one CPU until it is empty, and adds the addresses of its functions to
    /// `reached`. `cpu` is a folder in `per_cpu`.
    fn drain(&self, cpu: &Path, reached: &mut BTreeSet<u64>) -> Outcome {
        let failed = || Failure::io("cannot read the tracer's buffer");
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(nonblocking);
        let mut buffer = options.open(cpu.join("trace_pipe_raw")).map_err(failed())?;
        let mut page = [0; PAGE];
        loop {
            match buffer.read(&mut page) {
                Ok(0) => return Ok(()),
                Ok(len) => read_page(page.get(..len).unwrap_or_default(), reached),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(failed()(error)),
            }
        }
    }

    /// Returns the name of the function at `address`, or the address if the function is unknown.
    fn name(&self, address: u64) -> String {
        self.names.get(&address).cloned().unwrap_or_else(|| format!("{address:#x}"))
    }

    /// Reads a file of tracefs.
    fn read_file(&self, file: &str) -> Outcome<String> {
        let path = self.folder.join(file);
        fs::read_to_string(&path).map_err(Failure::io(format!("cannot read {}", path.display())))
    }

    /// Writes `value` to a file of tracefs.
    fn write_file(&self, file: &str, value: &str) -> Outcome {
        let path = self.folder.join(file);
        let what = format!("cannot write `{value}` to {}", path.display());
        // Opens with truncation, as a shell does: only that empties some of these files.
        fs::write(&path, value).map_err(Failure::io(what))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Ignore errors: this process is about to end, and a tracer that stays on only makes the
        // guest slower.
        for (file, value) in [("tracing_on", "0"), ("current_tracer", "nop"), ("set_ftrace_pid", "")] {
            self.write_file(file, value).unwrap_or_default();
        }
    }
}

/// Parses lines `ADDRESS NAME [MODULE]` into names by address.
fn parse_names(listed: &str) -> BTreeMap<u64, String> {
    let parsed = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        Some((address, words.next()?.to_owned()))
    });
    parsed.collect()
}

/// Returns the first line in the file `stats` of a CPU that reports lost events.
fn lost_events(stats: &str) -> Option<&str> {
    let counts = ["overrun: ", "commit overrun: ", "dropped events: "];
    stats.lines().find(|line| {
        counts.iter().any(|name| line.strip_prefix(name).is_some_and(|count| count.trim() != "0"))
    })
}

/// Adds the addresses of the functions in one page of the buffer to `reached`.
///
/// Each entry begins with a word: `type_len` in its lower 5 bits, a time difference in the others.
/// A `type_len` of 1 to 28 is the length of the data in words. If it is 0, a second word has the
/// length of itself and the data in bytes.
fn read_page(page: &[u8], reached: &mut BTreeSet<u64>) {
    let Some(commit) = u64_at(page, 8) else { return };
    let end = usize::try_from(commit & COMMIT_MASK).unwrap_or(0) + PAGE_HEADER_LEN;
    let page = page.get(..end).unwrap_or(page);
    let mut at = PAGE_HEADER_LEN;
    while let Some(header) = u32_at(page, at) {
        let (kind, delta) = (header & 31, header >> 5);
        let stated = u32_at(page, at + 4).and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        let (data_at, next) = match kind {
            PADDING if delta == 0 => return,
            PADDING => (None, at + 4 + stated),
            TIME_EXTEND | TIME_STAMP => (None, at + 8),
            0 => (Some(at + 8), at + 4 + stated),
            words => (Some(at + 4), at + 4 + 4 * usize::try_from(words).unwrap_or(0)),
        };
        if let Some(address) = data_at.and_then(|data_at| function_of_event(page.get(data_at..next)?)) {
            reached.insert(address);
        }
        // A length that does not advance would make this loop endless.
        if next <= at {
            return;
        }
        at = next;
    }
}

/// Returns the address of the function in the data of an event, or `None` in an interrupt.
///
/// The data begins with the type (2 bytes), the flags (1 byte), the preemption depth (1 byte) and
/// the process id (4 bytes). The address of the function follows ([`IP_FIELD`]).
fn function_of_event(event: &[u8]) -> Option<u64> {
    let flags = *event.get(2)?;
    if flags & INTERRUPTED != 0 { None } else { u64_at(event, 8) }
}

/// Reads a little-endian number at an offset.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Reads a little-endian number at an offset.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a page with these words after its header, and garbage after the committed length.
    fn page(data: &[u32]) -> Vec<u8> {
        let len = u32::try_from(data.len() * 4).unwrap();
        let words = [0, 0, len, 0].into_iter().chain(data.iter().copied()).flat_map(u32::to_le_bytes);
        words.chain([0xff; 64]).collect()
    }

    fn read(data: &[u32]) -> Vec<u64> {
        let mut reached = BTreeSet::new();
        read_page(&page(data), &mut reached);
        reached.into_iter().collect()
    }

    /// Returns an event with six words of data: type 1 and flags, process, function, caller.
    fn event(flags: u32, address: u32) -> [u32; 7] {
        [6 | 9 << 5, 1 | flags << 16, 77, address, 0, 0xabc, 0]
    }

    #[test]
    fn function_within_the_committed_length_counts_once() {
        let events = [event(0, 0x10), event(1, 0x20), event(0, 0x10)].concat();
        assert_eq!(read(&events), [0x10, 0x20]);
    }

    #[test]
    fn function_in_an_interrupt_is_left_out() {
        let events = [event(0x08, 0x10), event(0x10, 0x20), event(0x40, 0x30), event(0x21, 0x40)].concat();
        assert_eq!(read(&events), [0x40]);
    }

    #[test]
    fn times_and_padding_are_skipped() {
        let mut events = vec![TIME_EXTEND | 1 << 5, 7];
        events.extend(event(0, 0x10));
        events.extend([PADDING | 5 << 5, 8, 0]);
        events.extend([TIME_STAMP, 0]);
        // An event whose length precedes its data.
        events.extend([0, 28, 1, 77, 0x50, 0, 0, 0]);
        events.extend(event(0, 0x20));
        assert_eq!(read(&events), [0x10, 0x20, 0x50]);
        assert_eq!(read(&[PADDING, 0, 0]), [0_u64; 0], "padding without a length ends a page");
    }

    #[test]
    fn truncated_page_does_not_panic() {
        for len in 0..60 {
            read_page(&page(&event(0, 0x10))[..len], &mut BTreeSet::new());
        }
    }

    #[test]
    fn address_becomes_a_name() {
        let listed = "ffffffff94200014 trace_initcall_level_cb\nffffffffc0a01000 lo_open [loop]\n";
        let names = parse_names(listed);
        assert_eq!(names[&0xffff_ffff_9420_0014], "trace_initcall_level_cb");
        assert_eq!(names[&0xffff_ffff_c0a0_1000], "lo_open");
    }

    #[test]
    fn overflow_of_the_buffer_is_reported() {
        assert_eq!(lost_events("entries: 5\noverrun: 0\ncommit overrun: 0\ndropped events: 0\n"), None);
        assert_eq!(lost_events("entries: 5\noverrun: 0\ndropped events: 3\n"), Some("dropped events: 3"));
    }
}
