//! Does `ArcSwap::load` always return a value of its own instance, even if another thread stores
//! values between two of its instructions? The daemon loads the guest's memory and the inode tables
//! this way. arc-swap before 1.9.5 could return the value of another instance.
//!
//! A tracer stops the loading thread after the instruction that reads the pointer, and again a
//! number of instructions later. The test tries every number, so it does not depend on chance. The
//! tracer is a Perl program, because Rust has no safe call for `ptrace(2)`. The test needs Linux on
//! x86-64 and the right to trace (root, or `kernel.yama.ptrace_scope` 0).
#![cfg(test)]

use arc_swap::ArcSwap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

/// Bytes of a value. The allocator reuses freed memory of this size for the next value.
const LEN: usize = 40;
/// Byte of the values of the instance that is loaded.
const OWN: u8 = 1;
/// Byte of the values of another instance.
const OTHER: u8 = 2;
/// Smallest number of instructions of a load at which the test must have stopped the thread. A load
/// has more than a hundred instructions, so with fewer stops the test has traced other code.
const MOMENTS_MIN: usize = 20;
/// Number of instructions after which the test gives up, because the load does not end.
const MOMENTS_MAX: usize = 10_000;

/// Traces the thread whose thread id is the argument, from one `read(2)` to the next.
///
/// For each input line `ADDRESS COUNT`:
///
/// 1. Lets the thread return from `read(2)` and run until an instruction has put the address into a
///    register. Prints `loaded` and waits for a line.
/// 2. Lets the thread execute COUNT more instructions. Prints `stopped`, or `end` if the next
///    instruction is a system call, and waits for a line.
/// 3. Lets the thread run until it is in `read(2)` again. Prints `waiting`.
const TRACER: &str = r#"
    my ($peek, $step, $registers, $attach, $call) = (1, 9, 12, 16, 24);
    my $thread = 0 + $ARGV[0];
    $| = 1;
    sub request {
        # No copy of the last argument: the kernel may write into it.
        return if syscall(101, $_[0], $thread, $_[1], $_[2]) == 0;
        die "ptrace($_[0]): $!\n";
    }
    sub wait_for_stop {
        # __WALL, for a thread.
        waitpid($thread, 0x40000000) == $thread or die "waitpid: $!\n";
        (${^CHILD_ERROR_NATIVE} & 0x7f) == 0x7f or die "the thread has ended\n";
    }
    sub go { request($_[0], 0, 0); wait_for_stop(); }
    sub registers {
        my $buffer = "\0" x (27 * 8);
        request($registers, 0, $buffer);
        return unpack("Q27", $buffer);
    }
    sub until_it_reads {
        while (1) {
            go($call);
            # orig_rax is the number of the call, rax is ENOSYS before the kernel carries it out.
            my @all = registers();
            return if $all[15] == 0 and unpack("q", pack("Q", $all[10])) == -38;
        }
    }
    request($attach, 0, 0);
    wait_for_stop();
    until_it_reads();
    print "waiting\n";
    while (defined(my $line = <STDIN>)) {
        my ($address, $count) = split(" ", $line);
        go($call);
        for (my $steps = 0; ; $steps++) {
            die "the address is not loaded\n" if $steps > 100000;
            go($step);
            last if grep { $_ == $address } (registers())[0 .. 14];
        }
        print "loaded\n";
        <STDIN>;
        my $place = "stopped";
        for (1 .. $count) {
            my $word = "\0" x 8;
            request($peek, (registers())[16], $word);
            # The instruction "syscall".
            if ((unpack("Q", $word) & 0xffff) == 0x050f) { $place = "end"; last; }
            go($step);
        }
        print "$place\n";
        <STDIN>;
        until_it_reads();
        print "waiting\n";
    }
"#;

/// The tracer process. At its end it detaches from the thread.
struct Tracer {
    process: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
}

impl Tracer {
    fn of(thread: i32) -> Self {
        let mut command = Command::new("perl");
        command.args(["-e", TRACER, &thread.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = command.spawn();
        let mut process = started
            .unwrap_or_else(|error| panic!("no perl ({error}): run `apt-get install --yes perl-base`"));
        let orders = process.stdin.take().unwrap();
        let reports = BufReader::new(process.stdout.take().unwrap());
        let mut tracer = Self { process, orders, reports };
        assert_eq!(tracer.report(), "waiting");
        tracer
    }

    fn order(&mut self, line: &str) {
        writeln!(self.orders, "{line}").unwrap();
    }

    #[track_caller]
    fn report(&mut self) -> String {
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the tracer has ended; see its error message above");
        line.trim_end().to_owned()
    }

    fn end(self) {
        let Self { mut process, orders, .. } = self;
        drop(orders);
        assert!(process.wait().unwrap().success());
    }
}

fn value(of: u8) -> Arc<[u8; LEN]> {
    Arc::new([of; LEN])
}

fn address(value: &Arc<[u8; LEN]>) -> usize {
    Arc::as_ptr(value).addr()
}

#[test]
fn load_returns_a_value_of_its_own_instance() {
    let (own, other) = (ArcSwap::new(value(OWN)), ArcSwap::new(value(OTHER)));
    let (mut begin, mut begins) = io::pipe().unwrap();
    let (mut found, mut finds) = io::pipe().unwrap();
    let (tell_number, number) = sync_channel(1);
    let loaded = &own;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The first load allocates the thread's data for all later loads.
            drop(loaded.load());
            tell_number.send(rustix::thread::gettid()).unwrap();
            while begin.read_exact(&mut [0]).is_ok() {
                let [first, ..] = **loaded.load();
                finds.write_all(&[first]).unwrap();
            }
        });
        let mut tracer = Tracer::of(number.recv().unwrap().as_raw_nonzero().get());
        // Each round uses a new address, so no old one can be left in a register.
        let mut kept = Vec::new();
        let moments = (0..MOMENTS_MAX).find(|count| {
            let first = value(OWN);
            let freed = address(&first);
            own.store(first);
            tracer.order(&format!("{freed} {count}"));
            begins.write_all(b"!").unwrap();
            assert_eq!(tracer.report(), "loaded");
            own.store(value(OWN));
            let reused = value(OTHER);
            assert_eq!(address(&reused), freed, "the allocator did not reuse the freed memory");
            other.store(reused);
            tracer.order("on");
            let place = tracer.report();
            other.store(value(OTHER));
            tracer.order("on");
            assert_eq!(tracer.report(), "waiting");
            let mut seen = [0];
            found.read_exact(&mut seen).unwrap();
            assert_eq!(seen, [OWN], "{count} instructions after the pointer was read");
            kept.push(own.load_full());
            place == "end"
        });
        drop(begins);
        tracer.end();
        assert!(moments.is_some_and(|moments| moments > MOMENTS_MIN), "{moments:?}");
    });
}
