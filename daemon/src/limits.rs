//! Every limit on a queue, table, loop or allocation, each with its reason.

use std::time::Duration;

/// Largest number of descriptors in one virtqueue. Linux's virtio-fs driver sizes its requests by
/// it (`max_pages` is at most the queue size less four), and uses no larger split ring.
pub const QUEUE_SIZE_MAX: u16 = 1024;

/// Largest number of request queues of a device. vhost-user-backend serves at most 64 queues, and
/// one of them is hiprio.
pub const REQUEST_QUEUES_MAX: usize = 63;

/// Bytes of file data in one READ or WRITE: 256 pages, the most that a Linux guest asks for by
/// default.
pub const WRITE_LEN_MAX: u32 = 1 << 20;

/// Bytes that one queue thread keeps for reply bodies between requests. READDIR replies are the
/// largest ordinary ones. The thread frees the rest after the request that needed it.
pub const REPLY_BUFFER_KEPT: usize = 64 << 10;

/// Bytes of one READDIR, READDIRPLUS, GETXATTR, LISTXATTR or READLINK reply. Linux never asks for
/// more. The limit holds whatever length the guest declares.
pub const REPLY_LEN_MAX: usize = 1 << 20;

/// Supplementary groups that are taken from one request. Linux's own limit (`NGROUPS_MAX`) is
/// 65,536, but the extension carries only the group that matters for the new file. Each group is an
/// allocation in the host's kernel.
pub const GROUPS_MAX: usize = 32;

/// Descriptors that the guest can never take. Each of 64 queues has six (kick, call and error
/// events and their copies), and each of the 509 memory regions that a front-end may add has one.
/// The rest are for sockets and logging.
pub const DESCRIPTOR_RESERVE: u64 = 1024;

/// Bytes of one COPY_FILE_RANGE on the host. A stop of the queue waits for the thread that copies.
/// Programs in the guest go on after a short copy anyway.
pub const COPY_LEN_MAX: usize = 64 << 20;

/// Bytes that the host reserves, zeroes or frees in one call. A stop of the queue waits for one
/// such step. tmpfs takes 30 to 60 ms to zero as many bytes.
pub const ALLOCATION_STEP_LEN: u64 = 64 << 20;

/// Largest number of steps of one FALLOCATE. Past 64 GiB a step is therefore a thousandth of the
/// whole range. No memory is that large, and a disk only notes what is reserved, so more calls
/// would only cost time.
pub const ALLOCATION_STEPS_MAX: u64 = 1024;

/// Length in bytes above which one FALLOCATE may take longer than the stop of a queue may wait. The
/// queue takes no later request from its ring until it is done, so that the request can be put back
/// between any two steps.
pub const LONG_ALLOCATION_LEN: u64 = 256 << 20;

/// Time that the host may take for the requests of one queue in the offload pool, by the session's
/// estimate. Past that, the next long request stays in the available ring. A stop of the queue
/// waits for about this long.
pub const BACKLOG_TIME_MAX: Duration = Duration::from_secs(1);

/// Bytes of host directory entries that are read at once, on the stack of the queue thread.
pub const LISTING_BUFFER_LEN: usize = 16 << 10;

/// Bytes of one extended attribute or of one list of their names: Linux's `XATTR_SIZE_MAX` and
/// `XATTR_LIST_MAX`.
pub const XATTR_LEN_MAX: usize = 64 << 10;

/// Descriptors of one indirect table. A request may be no longer than its queue (virtio 1.3,
/// 2.7.5.3.1), and this is the length of the longest queue that is offered.
pub const CHAIN_DESCRIPTORS_MAX: u16 = QUEUE_SIZE_MAX;

/// Largest number of requests that a queue thread completes before it interrupts the guest. Many
/// requests share one interrupt, and the first of a long burst does not wait for the last.
pub const SIGNAL_BATCH_MAX: usize = 16;

/// Time for which the thread of the hiprio queue collects FORGETs. No program waits for them.
pub const FORGET_NAP: Duration = Duration::from_millis(2);

/// Bytes that one queue thread keeps for messages between requests. All messages fit except long
/// extended attributes and long BATCH_FORGETs.
pub const MESSAGE_BUFFER_KEPT: usize = 8 << 10;

/// Shortest times between log lines of one source that a guest can cause. The first line of a fault
/// appears at once, later lines show that it goes on, and a hostile guest fills no disk. The last
/// time repeats. A source that was quiet for longer than the last time starts with the first again.
pub const LOG_BACK_OFF: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_mins(1), Duration::from_hours(1)];

/// Log lines that a guest can cause at once, from all sources together. A device with 64 queues
/// that all fail at the same moment shows one line for each queue.
pub const LOG_LINES_BURST: u32 = 64;

/// Time after which the budget of [`LOG_LINES_BURST`] gets one more line: 720 lines a day.
pub const LOG_LINE_PERIOD: Duration = Duration::from_mins(2);

/// Bytes of foreign text in a log line, such as the message of a panic.
pub const LOG_TEXT_LEN_MAX: usize = 256;

/// Largest length in bytes of a log line that a guest can cause, with time, level and fields. With
/// the two limits above, a guest can cause 0.4 MB on the first day and 0.37 MB on each later day.
pub const LOG_LINE_LEN_MAX: usize = 512;

/// Lines of the log that queue threads have written and the thread `relay` has not. Past that, a
/// line is lost and counted.
pub const RELAYED_LINES_MAX: usize = 1024;

/// Bytes of the lines that [`RELAYED_LINES_MAX`] counts.
pub const RELAYED_LINES_LEN_MAX: usize = 256 << 10;

/// Interval at which the thread `relay` publishes the time while queue threads need it. Their time
/// is late by up to this interval, which is far less than each duration that they measure.
pub const CLOCK_TICK: Duration = Duration::from_millis(10);

/// Number of published times in a row that no thread has read, after which the thread `relay`
/// publishes no more until a thread asks.
pub const CLOCK_TICKS_UNUSED_MAX: u32 = 10;

/// Largest default number of threads that serve `pinhole mount`. More than four wait for each other
/// on `/dev/fuse`.
pub const MOUNT_THREADS_DEFAULT_MAX: u16 = 4;

/// Threads of a guest that are remembered because they look a path up again. A thread that is
/// forgotten may be refused a second time, and its program then sees ESTALE.
pub const RETRIES_MAX: usize = 64;

/// Time for which a thread that looks a path up again is remembered if the look-up does not arrive.
/// Linux looks a path up in far less than a second, but a busy host, a paused VM or a frozen daemon
/// may delay it. A thread that is forgotten may be refused a second time, and its program then sees
/// ESTALE. A longer time has one cost: the files that the thread looks up meanwhile stay open.
pub const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// Nodes that are remembered of a path that a thread looks up again. They are the last nodes of the
/// path. Most paths are shorter.
pub const REWALK_NODES_MAX: usize = 16;

/// Time within which the guest's kernel has handled a reply that was sent. Until then, a later
/// reply may overtake it. It is a second, plus [`CLOCK_TICK`] for each of the two times that are
/// compared.
pub const REPLY_HANDLED_WITHIN: Duration = Duration::from_millis(1020);

/// Nodes that a guest may know at once. Each takes about 180 bytes here, and about six times as
/// much in the guest's own kernel. So only a hostile guest comes near the limit (3 GB).
pub const NODES_MAX: u32 = 1 << 24;

/// Parts of the table that finds nodes by inode, each with its own lock. With this many, the queues
/// of a guest seldom need the same lock.
pub const NODE_SHARDS: usize = 16;

/// Descriptors that are kept open for nodes. Each takes about 200 bytes of the host's kernel and
/// pins an inode. To open a node again costs two system calls, and a larger limit would hardly save
/// any.
pub const NODE_DESCRIPTORS_MAX: usize = 16 << 10;

/// Time after which the descriptors of an unused mount below the share are closed, so that the host
/// can unmount it. It takes up to twice as long if the last use comes just after a check. To open
/// the descriptors again costs a few system calls.
pub const MOUNT_IDLE: Duration = Duration::from_secs(1);

/// Largest number of nested mounts that are found again at once. No host has more. The limit also
/// ends a cycle, which can be recorded when the host moves one mount into another.
pub const MOUNT_NESTING_MAX: usize = 32;

/// Nodes that are examined to find one whose descriptor may be closed.
pub const DESCRIPTOR_SWEEP_MAX: usize = 128;

/// Files or directories that a guest may have open at once. No process may have so many
/// descriptors. The number is below the bit that marks handles of directories.
pub const HANDLES_MAX: u32 = 1 << 30;

/// Copies of a session's state, so that threads of different queues share no memory. They suffice
/// for the queue threads of a guest with eight processors, their offload pool, and the thread of
/// hiprio. If there are more threads, some share a copy.
pub const SESSION_SHARDS: usize = 20;

/// Bytes of one request, in both directions together, above which the queue thread first reports
/// earlier requests to the guest. To copy so many bytes takes longer than an interrupt.
pub const LONG_REQUEST_LEN: u32 = 64 << 10;

/// Default number of threads in the offload pool. A disk is faster with several requests at once.
/// Each thread costs a stack only while there is work for it.
pub const POOL_THREADS_DEFAULT: u16 = 8;

/// Largest number of threads in the offload pool that the command line may set.
pub const POOL_THREADS_MAX: u16 = 256;

/// Requests that wait for a thread of the offload pool. Past that, the queue with one more request
/// waits. So a guest cannot make the daemon grow with requests that the host does not complete.
pub const POOL_BACKLOG_MAX: usize = 256;

/// Bytes of the daemon's memory for the requests that [`POOL_BACKLOG_MAX`] counts: their messages
/// and lists of buffers. Their data is in the guest's memory. All of them may be READs of 1 MiB in
/// single pages.
pub const POOL_BACKLOG_BYTES_MAX: usize = 2 << 20;

/// How long a thread that was started on demand waits for work before it ends.
pub const THREAD_IDLE: Duration = Duration::from_secs(10);

/// How long to wait before a thread that could not be started is tried again.
pub const SPAWN_RETRY: Duration = Duration::from_millis(100);

/// Bytes of memory that a daemon with an image reserves at its start, besides those for each
/// thread: for its session, its DAX window, the backlog of the pool and the log.
pub const IMAGE_HEAP_LEN: usize = 32 << 20;

/// Bytes that it reserves for each thread that serves requests. They suffice for the longest
/// message, the list of its buffers, and a reply that has grown to its limit, twice.
pub const IMAGE_HEAP_LEN_PER_THREAD: usize = 4 << 20;

/// Default time for which a queue thread polls for the next request before it sleeps, on a host
/// with several processors. A guest takes about this long from a reply to its next request.
pub const POLL_DEFAULT: Duration = Duration::from_micros(30);

/// Longest time in microseconds for which a queue thread may poll. For a longer wait, sleeping is
/// better.
pub const POLL_US_MAX: u64 = 1000;

/// Byte ranges and whole files that a guest may have locked at once. Each takes about 200 bytes of
/// the host's kernel.
pub const LOCKS_MAX: u64 = 1 << 16;

/// Locks of one file that a guest may have at once: locked ranges and handles with a flock(2) lock.
/// It also limits the owners of locks. Whenever this or another guest locks the file, the host
/// searches all of its locks, which takes 50 us.
pub const LOCKS_OF_FILE_MAX: usize = 1024;

/// Locked ranges that are moved from an open file description for reading to one for writing. Each
/// takes one system call.
pub const LOCKS_MOVED_MAX: usize = 64;

/// Time that the thread for deferred requests tries locks before it serves other deferred requests.
pub const LOCK_TRIES_TIME: Duration = Duration::from_millis(2);

/// Length of the pause after the thread has tried locks, as a multiple of the time that it has
/// spent on them.
/// During the pause no lock is tried, whatever is unlocked meanwhile.
pub const LOCK_TRIES_REST: u32 = 2;

/// Bytes of the daemon's memory that a request may take while it waits for a lock. Requests of
/// Linux take a quarter of it.
pub const LOCK_WAIT_LEN_MAX: usize = 4096;

/// Largest number of requests that wait for locks. Each takes about 500 bytes, and one try on the
/// host every few milliseconds. Linux has one such request for each task that waits.
pub const LOCK_WAITERS_MAX: usize = 1024;

/// Pause before a held lock is tried for the second time. A guest takes a fraction of this time to
/// unlock a file that it has just locked.
pub const LOCK_RETRY_MIN: Duration = Duration::from_micros(100);

/// Longest pause between two tries of a lock in the first ten seconds. If few requests wait, a lock
/// that another process released is noticed within this time. Each try takes a microsecond.
pub const LOCK_RETRY_MAX: Duration = Duration::from_millis(10);

/// Longest pause between two tries of a lock after more than ten seconds. From then on the pause is
/// a thousandth of the time waited, so that many guests that wait for long cost their host little.
pub const LOCK_RETRY_LATE: Duration = Duration::from_millis(100);

/// Handles by which one owner may have locks of one file.
pub const LOCK_HANDLES_MAX: usize = 64;

/// INTERRUPTs that are remembered because their request has not arrived yet. A caller may give up
/// before its request is read.
pub const INTERRUPTS_KEPT: usize = 64;

/// Files that wait until the thread `deferred-close` closes them. Each holds a descriptor.
pub const DEFERRED_CLOSES_MAX: usize = 256;

/// Number of blocks of 512 bytes from which on the thread `deferred-close` closes a deleted file: 8
/// MiB. Fewer blocks are freed in the time that it takes to wake the thread.
pub const DEFERRED_CLOSE_BLOCKS_MIN: u64 = 16 << 10;

/// Blocks of 512 bytes from which on a file is large: 32 MiB. tmpfs takes 4 ms to free so many
/// blocks. A queue waits for no longer than that.
pub const LARGE_BLOCKS_MIN: u64 = 64 << 10;

/// Requests of one queue that wait until another process of the host gives up its lease on a file.
/// Each takes about 1 KiB. Past that, an open fails with EAGAIN, as with O_NONBLOCK in open(2). A
/// queue holds no more than an eighth of its size, so that other requests still get through.
pub const LEASED_REQUESTS_MAX: usize = 64;

/// Pause before a file with a lease is opened for the second time. A process takes about this long
/// to react to the signal.
pub const LEASE_RETRY_MIN: Duration = Duration::from_millis(1);

/// Longest pause between two attempts to open a file with a lease. Each attempt takes about 10 us,
/// so all requests of a queue together take a hundredth of its thread's time.
pub const LEASE_RETRY_MAX: Duration = Duration::from_millis(50);

/// Time after which a request that waits for a lease fails with EAGAIN. It is longer than the 45
/// seconds after which the host breaks the lease by default (/proc/sys/fs/lease-break-time).
pub const LEASE_WAIT_MAX: Duration = Duration::from_mins(1);

/// INITs and DESTROYs that a session serves in a second. After a pause, a second's worth may come
/// at once. Each makes every other request of its guest wait. A guest sends one when it mounts the
/// share and one when it unmounts it.
pub const SESSION_CHANGES_PER_SECOND: u64 = 100;

/// Nodes that a guest may forget for each operation of a policy's `operations-per-second`. One
/// READDIRPLUS makes many nodes known. To forget a node takes a tenth of the time of a LOOKUP, or
/// two thirds if the node has an open descriptor.
pub const FORGETS_PER_OPERATION: u64 = 16;

/// Deferred requests that wait for one turn of the thread that calls `syncfs(2)`. Each takes about
/// 500 bytes. Past the limit, the thread that serves a request waits for the turn.
pub const SYNC_WAITERS_MAX: usize = 1024;

/// Longest sleep of a queue thread whose guest exceeds its speed limit. A stop of the queue ends
/// it. `epoll_pwait` counts milliseconds in 31 bits, which suffice for 24 days.
pub const NAP_MAX: Duration = Duration::from_hours(24);

/// Largest number of hidden names that one READDIR skips before it replies. Another guest that sees
/// the names can create any number of them, and to skip this many takes a queue thread
/// milliseconds. For each such reply the guest sees one more ".".
pub const HIDDEN_NAMES_MAX: u64 = 8 << 10;

/// Time after which a request fails with EIO because the front-end has not replied to a message
/// about the DAX window. A VMM that is only busy replies far sooner. A guest's watchdog for hung
/// tasks waits longer.
pub const WINDOW_PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait of a request in all, if the front-end replies but has many messages to handle
/// first. It suffices for as many messages as there may be mappings, with a tenth of a second for
/// each.
pub const WINDOW_WAIT_MAX: Duration = Duration::from_mins(1);

/// Longest wait of a request while a queue is being stopped. The VMM may stop the queue on the very
/// thread that would reply.
pub const WINDOW_GRACE: Duration = Duration::from_millis(200);

/// Largest number of requests that wait for the front-end. Each takes about 300 bytes, at most 20
/// KiB (256 ranges of a REMOVEMAPPING and a list of 1,024 buffers), and one or two descriptors,
/// which the budget of its guest counts. Linux has one such request for each task that waits for a
/// page fault.
pub const WINDOW_REQUESTS_MAX: usize = 1024;

/// Threads that may wait for replies on back channels that were replaced or whose connection is
/// over. Past that, a new back channel gets no window.
pub const WINDOW_THREADS_MAX: usize = 8;

/// Length in bytes from which on `--dax auto` offers a file for mapping. A shorter file takes a
/// whole slot of 2 MiB, and to map it takes longer than to read it.
pub const DAX_MIN_SIZE_DEFAULT: u64 = 1 << 20;

/// Longest time that a starting daemon waits for others that start with a socket in the same
/// directory. Each needs some milliseconds. Any process that can read the directory may lock it, so
/// a daemon does not wait without limit.
pub const SOCKET_LOCK_LIMIT: Duration = Duration::from_secs(2);

/// Pause between two attempts to lock the directory of a socket.
pub const SOCKET_LOCK_NAP: Duration = Duration::from_millis(5);

/// Names that are tried for the directory in which a socket is created. A killed process with the
/// same process id may have left one of them.
pub const PRIVATE_FOLDERS_MAX: u32 = 16;

/// Bytes of memory that the supervisor keeps free for its last log lines, because its filter allows
/// no call that gets more. They suffice for many lines (`LOG_TEXT_LEN_MAX`). The C library's
/// allocator does not give back so little by itself.
pub const SUPERVISOR_HEAP_LEN: usize = 64 << 10;
