//! Every limit on a queue, table, loop or allocation, each with its reason.

/// Descriptors in one virtqueue at most: the largest split ring that Linux's virtio-fs driver makes use of; it sizes
/// its requests by this (`max_pages` is at most the queue size less four).
pub const QUEUE_SIZE_MAX: u16 = 1024;

/// Request queues that a device may have: vhost-user-backend serves at most 64 queues, one of them is hiprio.
pub const REQUEST_QUEUES_MAX: usize = 63;

/// Bytes of file data in one READ or WRITE: 256 pages, the most that a Linux guest asks for by default.
pub const WRITE_LEN_MAX: u32 = 1 << 20;

/// Memory that one worker keeps for reply bodies between requests, in bytes. READDIR replies are the largest; more
/// is given back after the request that needed it.
pub const REPLY_BUFFER_KEPT: usize = 64 << 10;

/// Bytes of one READDIR, READDIRPLUS, GETXATTR, LISTXATTR or READLINK reply: what Linux ever asks for, whatever the
/// guest declares.
pub const REPLY_LEN_MAX: usize = 1 << 20;

/// Supplementary groups taken from one request: Linux's own NGROUPS_MAX is 65,536, but the extension carries only the
/// one that matters for the new file, and each is a host kernel allocation.
pub const GROUPS_MAX: usize = 32;

/// Descriptors that the guest can never take: six for each of 64 queues (kick, call and error events and their
/// copies), one for each of the 509 memory regions that a front-end may add, the rest for sockets and logging.
pub const DESCRIPTOR_RESERVE: u64 = 1024;

/// Bytes of one COPY_FILE_RANGE on the host. It holds a thread that a stop of its queue waits for, and a guest's caller goes
/// on after a short copy anyway.
pub const COPY_LEN_MAX: usize = 64 << 20;

/// Bytes that the host reserves, zeroes or frees in one call: tmpfs takes 30 to 60 ms to zero as many. A queue that is being
/// stopped waits for one such step.
pub const ALLOCATION_STEP_LEN: u64 = 64 << 20;

/// Steps of one FALLOCATE at most: past 64 GiB a step is a thousandth of the whole. No memory is so large, and a disk only
/// notes what is reserved, so more calls would only cost time.
pub const ALLOCATION_STEPS_MAX: u64 = 1024;

/// Bytes of one FALLOCATE from which on it may take longer than a queue may be kept from stopping. Its queue takes nothing
/// more off its ring until it is done, so that it can be put back between any two steps.
pub const LONG_ALLOCATION_LEN: u64 = 256 << 20;

/// How long the host may take for the requests of one queue that have been handed to the pool, by the session's estimate.
/// Past that, the next long one stays in the available ring: a stop of the queue waits for about this long.
pub const BACKLOG_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// Bytes of host directory entries read at once, on the worker's stack.
pub const LISTING_BUFFER_LEN: usize = 16 << 10;

/// Bytes of one extended attribute or one list of their names: Linux's `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
pub const XATTR_LEN_MAX: usize = 64 << 10;

/// Descriptors of one indirect table: a request may be no longer than the queue (virtio 1.3, 2.7.5.3.1), and the
/// longest queue that is offered has so many.
pub const CHAIN_DESCRIPTORS_MAX: u16 = QUEUE_SIZE_MAX;

/// Requests that a worker completes at most before it tells the guest: many for one interrupt, yet the first of a
/// long burst does not wait for the last.
pub const SIGNAL_BATCH_MAX: usize = 16;

/// How long the thread of the hiprio queue collects FORGETs, for which no program waits.
pub const FORGET_NAP: std::time::Duration = std::time::Duration::from_millis(2);

/// Memory that one worker keeps for messages between requests, in bytes: all but long extended attributes and long
/// BATCH_FORGETs fit.
pub const MESSAGE_BUFFER_KEPT: usize = 8 << 10;

/// The shortest times between the lines of one source that a guest can cause: a mistake shows at once, one that goes on shows
/// that it does, and a hostile guest fills no disk. The last one repeats; a source that was quiet for longer than that begins anew.
pub const LOG_BACK_OFF: [std::time::Duration; 3] = [
    std::time::Duration::from_secs(1),
    std::time::Duration::from_mins(1),
    std::time::Duration::from_hours(1),
];

/// Lines that all such sources have at once, whatever each of them may still write: a device with 64 queues that has just
/// gone wrong shows one line for each.
pub const LOG_LINES_BURST: u32 = 64;

/// How long it takes until that budget has one line more: 720 a day.
pub const LOG_LINE_PERIOD: std::time::Duration = std::time::Duration::from_mins(2);

/// Bytes of text in a line that come from elsewhere, such as the message of a panic.
pub const LOG_TEXT_LEN_MAX: usize = 256;

/// Bytes of such a line at most, time, level and fields included: with the two limits above, 0.4 MB on the first day and
/// 0.37 MB on each day after it.
pub const LOG_LINE_LEN_MAX: usize = 512;

/// Threads that serve `pinhole mount` unless told otherwise: more than four wait for one another on `/dev/fuse`.
pub const MOUNT_THREADS_DEFAULT_MAX: u16 = 4;

/// Threads of a guest that are remembered as looking a path up once more. One that is forgotten may find what is gone a
/// second time, which its program sees as ESTALE.
pub const RETRIES_MAX: usize = 64;

/// How long one is remembered that does not arrive. Linux looks a path up in far less than a second, but a busy host, a
/// paused VM or a frozen daemon may hold it up. A thread that is forgotten may be refused a second time, and its program
/// then sees ESTALE. To remember it longer costs only that what it looks up meanwhile is kept open.
pub const RETRY_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Nodes that are remembered of the path that such a thread looks up: the last of a path that is longer than most.
pub const REWALK_NODES_MAX: usize = 16;

/// How long an answer may take from here until the guest's kernel has handled it. Until then it may come after a later one.
pub const REPLY_HANDLED_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Nodes that a guest may know at once: each takes about 180 bytes, and a guest's own kernel some six times as much for
/// each inode that it knows, so only a hostile guest comes near (3 GB).
pub const NODES_MAX: u32 = 1 << 24;

/// Parts of the table that finds nodes by inode, each with a lock of its own: enough that the queues of a guest
/// seldom meet.
pub const NODE_SHARDS: usize = 16;

/// Descriptors kept open for nodes that are in use. Each is some 200 bytes of the host's kernel and pins an inode;
/// more would hardly save reopening, which costs two system calls.
pub const NODE_DESCRIPTORS_MAX: usize = 16 << 10;

/// How long a mount below the share stays unused before its descriptors are closed, so that the host can unmount it;
/// twice as long where a use falls just behind a look. Opening them again costs a few system calls.
pub const MOUNT_IDLE: std::time::Duration = std::time::Duration::from_secs(1);

/// Mounts, one in the other, that are found again at once. More than a host has; it also ends a circle that is noted where
/// the host has moved one mount into another.
pub const MOUNT_NESTING_MAX: usize = 32;

/// Nodes that are looked at to find one whose descriptor may be closed.
pub const DESCRIPTOR_SWEEP_MAX: usize = 128;

/// Files or directories that a guest may have open at once: more than any process has descriptors for, and fewer than
/// the bit that tells the handles of directories.
pub const HANDLES_MAX: u32 = 1 << 30;

/// Copies of a session's state, so that threads which serve different queues share none: the workers of a guest with
/// eight processors and their pool, and one for hiprio. More threads than that share some.
pub const SESSION_SHARDS: usize = 20;

/// Bytes of one request, both ways, above which the worker tells the guest first of what was done before: copying
/// them takes longer than an interrupt.
pub const LONG_REQUEST_LEN: u32 = 64 << 10;

/// Threads that serve what would hold up a queue, unless told otherwise: a disk does better with several requests at
/// hand, and each costs a stack only while there is work for it.
pub const POOL_THREADS_DEFAULT: u16 = 8;

/// Threads in the pool at most, whatever the command line says.
pub const POOL_THREADS_MAX: u16 = 256;

/// Requests that wait for a thread of the pool. Past that the queue that has one more waits, so that a guest cannot
/// make the daemon grow by asking for what the host does not deliver.
pub const POOL_BACKLOG_MAX: usize = 256;

/// Bytes of our own memory that those requests take: messages and lists of buffers, not the data, which is the
/// guest's. All of them may be READs of 1 MiB in pages.
pub const POOL_BACKLOG_BYTES_MAX: usize = 2 << 20;

/// How long a thread of the pool waits for work before it ends, unless it is the last.
pub const POOL_IDLE: std::time::Duration = std::time::Duration::from_secs(10);

/// How long to wait before a thread that could not be started is tried again.
pub const POOL_RETRY: std::time::Duration = std::time::Duration::from_millis(100);

/// How long a worker looks for the next request before it sleeps, unless told otherwise and where there is more than
/// one processor: as long as a guest takes from an answer to its next request.
pub const POLL_DEFAULT: std::time::Duration = std::time::Duration::from_micros(30);

/// The longest time in microseconds for which a worker may look for a request: what takes longer is better slept for.
pub const POLL_US_MAX: u64 = 1000;

/// Byte ranges and whole files that a guest may have locked at once; each is some 200 bytes of the host's kernel.
pub const LOCKS_MAX: u64 = 1 << 16;

/// Ranges of one file that a guest may have locked at once, together with the handles that have it by flock(2), and owners that
/// may: the host looks through all of them for each lock of that file,
/// also for those of other guests, which takes it 50 us.
pub const LOCKS_OF_FILE_MAX: usize = 1024;

/// Ranges that are taken over from a description that only reads to one that writes, each by a call of its own.
pub const LOCKS_MOVED_MAX: usize = 64;

/// How long the thread that answers tries locks before it looks at what else there is to answer.
pub const LOCK_TRIES_TIME: std::time::Duration = std::time::Duration::from_millis(2);

/// So many times as long as it has tried locks it leaves them alone then, whatever is unlocked meanwhile.
pub const LOCK_TRIES_REST: u32 = 2;

/// Bytes of our own memory that a request may take which waits for a lock; Linux's take a quarter of it.
pub const LOCK_WAIT_LEN_MAX: usize = 4096;

/// Requests that wait for locks at most: each is some 500 bytes and a try on the host every few milliseconds. Linux has
/// one for each task that waits.
pub const LOCK_WAITERS_MAX: usize = 1024;

/// How long to wait before a lock that is held is first tried again: a few times what a guest takes to unlock what it
/// has just locked.
pub const LOCK_RETRY_MIN: std::time::Duration = std::time::Duration::from_micros(100);

/// The longest time between two tries: so late a lock is tried at most that another daemon or a host process has given
/// back, where few wait. Each try costs a microsecond.
pub const LOCK_RETRY_MAX: std::time::Duration = std::time::Duration::from_millis(10);

/// The same for who has waited for more than ten seconds: then it is a thousandth of that, and at most this, so that many
/// machines that wait for long cost their host nothing.
pub const LOCK_RETRY_LATE: std::time::Duration = std::time::Duration::from_millis(100);

/// Handles by which one owner may have locks of one file.
pub const LOCK_HANDLES_MAX: usize = 64;

/// Requests to be interrupted that have not been met yet: a caller may give up before its request is read.
pub const INTERRUPTS_KEPT: usize = 64;

/// Files that wait to be closed by the closing thread. Each holds a descriptor.
pub const DEFERRED_CLOSES_MAX: usize = 256;

/// Blocks of 512 bytes of a deleted file from which on the closing thread closes it: 8 MiB. Fewer
/// blocks are freed in the time that waking the thread takes.
pub const DEFERRED_CLOSE_BLOCKS_MIN: u64 = 16 << 10;

/// Blocks of 512 bytes from which on a file is large: 32 MiB. To give them back takes the host's memory file system 4 ms, and
/// a queue waits for no more than that.
pub const LARGE_BLOCKS_MIN: u64 = 64 << 10;

/// Requests of one queue that wait for another process of the host to give up its lease on a file; each is about 1 KiB.
/// Past that, an open is EAGAIN, as of a program that asks not to wait (open(2)). A queue holds no more than an eighth
/// of its size, so that others still get through.
pub const LEASED_REQUESTS_MAX: usize = 64;

/// How long to wait before a file with a lease is first opened again: about as long as a process takes to answer the
/// signal.
pub const LEASE_RETRY_MIN: std::time::Duration = std::time::Duration::from_millis(1);

/// The longest time between two tries. Each costs some 10 us, so all of a queue cost its thread a hundredth of its time.
pub const LEASE_RETRY_MAX: std::time::Duration = std::time::Duration::from_millis(50);

/// How long a request waits for a lease, which is then EAGAIN: longer than the 45 seconds after which the host takes the
/// lease away by default (/proc/sys/fs/lease-break-time).
pub const LEASE_WAIT_MAX: std::time::Duration = std::time::Duration::from_mins(1);

/// INITs and DESTROYs that a session serves in a second; a second's worth at once after a pause. Each makes every other
/// request of its guest wait. A guest sends one when it mounts the share and one when it unmounts it.
pub const SESSION_CHANGES_PER_SECOND: u64 = 100;

/// Inodes that a guest may forget for each operation of a policy's `operations-per-second`: one READDIRPLUS makes a guest
/// know many. To forget one that has no descriptor open takes a tenth of the time of a LOOKUP, another two thirds.
pub const FORGETS_PER_OPERATION: u64 = 16;

/// Requests that wait without a thread for one turn of making a file system durable; each is some 500 bytes. Past that,
/// the thread that serves one more waits with it.
pub const SYNC_WAITERS_MAX: usize = 1024;

/// How long a worker sleeps at once for a guest that goes on too fast: so late it may see that it is to stop.
pub const THROTTLE_NAP_MAX: std::time::Duration = std::time::Duration::from_millis(100);

/// Hidden names that one READDIR passes over at most before it answers: another guest, to which they are not hidden, makes
/// as many as it likes, and looking at this many takes milliseconds of a queue thread. The guest sees one "." more for each
/// such reply.
pub const HIDDEN_NAMES_MAX: u64 = 8 << 10;

/// How long the front-end may owe an answer to a message about the DAX window before who waits for it is given EIO: far longer than a VMM takes that is
/// only busy, and not as long as a guest's watchdog for tasks that hang.
pub const WINDOW_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// How long it waits in all, where the front-end answers and there is much before it: as many messages as there may be
/// mappings, each taking a tenth of a second.
pub const WINDOW_WAIT_MAX: std::time::Duration = std::time::Duration::from_mins(1);

/// How long it waits once a queue is being stopped: a VMM that stops one may be waiting for that on the very thread that
/// would answer.
pub const WINDOW_GRACE: std::time::Duration = std::time::Duration::from_millis(200);

/// Requests that wait for the front-end at most; each is some 300 bytes and one or two descriptors, which its guest's budget
/// counts. Linux has one for each task that is held by a page fault.
pub const WINDOW_REQUESTS_MAX: usize = 1024;

/// Threads that may be waiting for a front-end to answer on a back channel that has been replaced, or whose connection is
/// over: past that, who opens another has no window.
pub const WINDOW_THREADS_MAX: usize = 8;

/// Bytes from which on `--dax auto` offers a file for mapping: a shorter one takes a slot of 2 MiB, and mapping it takes
/// longer than reading it.
pub const DAX_MIN_SIZE_DEFAULT: u64 = 1 << 20;

/// How long a daemon that starts waits for others that start with a socket in the same folder. Each needs some milliseconds;
/// any process that can read the folder may lock it, so a daemon does not wait for good.
pub const SOCKET_LOCK_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Between two attempts at that.
pub const SOCKET_LOCK_NAP: std::time::Duration = std::time::Duration::from_millis(5);

/// Names for the folder in which a socket is made that are tried: one may be left of a process of the same number that was
/// killed.
pub const PRIVATE_FOLDERS_MAX: u32 = 16;

/// Bytes of memory that the supervisor keeps free for its last words, because its filter allows no call that gets more: many
/// times what a line of the log takes (`LOG_TEXT_LEN_MAX`). Less than what the C library's allocator gives back by itself.
pub const SUPERVISOR_HEAP_LEN: usize = 64 << 10;
