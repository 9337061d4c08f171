//! The disk as a file: a thread serves it over /dev/fuse and keeps its log. A loop device uses the
//! file, so each request of the file system on that device is one message here, in order.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use pinhole_tests::mounted::unmount_when_unused;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::image::Image;
use super::log::{Entry, Log, Moment};
use super::messages::{self, Request};

/// Length of the buffer for a request in bytes. Linux asks for a page more than the longest write.
const BUFFER_LEN: usize = messages::WRITE_LEN_MAX as usize + 8192;

/// Content of the disk with its log.
#[derive(Debug)]
struct State {
    image: Image,
    log: Log,
}

/// Disk that a thread serves as a file. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct DiskFile {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    serving: Option<JoinHandle<()>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DiskFile {
    /// Serves `image` as the file `path`, in the mount namespace of the calling thread.
    pub(super) fn serve(image: Image, path: &Path) -> io::Result<Self> {
        File::create(path)?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let fd = device.as_fd().as_raw_fd();
        let options = CString::new(format!("fd={fd},rootmode=100600,user_id=0,group_id=0"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("pinhole-crash", path, "fuse", flags, Some(options.as_c_str()))?;
        let state = Arc::new(Mutex::new(State { image, log: Log::default() }));
        let shared = Arc::clone(&state);
        let serving = std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || serve(&device, &shared))
            .inspect_err(|_error| detach(path))?;
        Ok(Self { path: path.to_path_buf(), state, serving: Some(serving) })
    }

    /// Returns the current moment.
    pub(super) fn now(&self) -> Moment {
        lock(&self.state).log.now()
    }

    /// Ends the service and returns the log.
    pub(super) fn end(mut self) -> io::Result<Log> {
        unmount_when_unused(&self.path)?;
        if let Some(serving) = self.serving.take() {
            serving.join().map_err(|_panic| io::Error::other("the thread of the disk has panicked"))?;
        }
        fs::remove_file(&self.path)?;
        Ok(std::mem::take(&mut lock(&self.state).log))
    }
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        if self.serving.is_some() {
            detach(&self.path);
        }
    }
}

/// Unmounts the file lazily. The thread ends when the last user of the file has ended.
fn detach(path: &Path) {
    rustix::mount::unmount(path, UnmountFlags::DETACH).unwrap_or_default();
}

/// Serves requests until the file is unmounted.
fn serve(device: &File, state: &Mutex<State>) {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let message = match { device }.read(&mut buffer) {
            Ok(len) => buffer.get(..len).unwrap_or_default(),
            Err(error) if is_transient(&error) => continue,
            Err(_unmounted) => return,
        };
        let (unique, request) = messages::decode(message);
        // Ignore the result: the kernel no longer waits for the reply to a withdrawn request.
        drop(answer(device, unique, &request, state));
    }
}

/// Returns whether the next read can succeed: the request was withdrawn, or a signal came.
fn is_transient(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::INTR, Errno::AGAIN]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Carries out a request and sends its reply.
fn answer(device: &File, unique: u64, request: &Request<'_>, state: &Mutex<State>) -> io::Result<()> {
    let mut state = lock(state);
    let body = match *request {
        Request::Init => messages::init(),
        Request::Attributes => messages::attributes(state.image.len()),
        Request::Open => messages::open(),
        Request::Read { at, len } => state.image.get(at, usize::try_from(len).unwrap_or_default()).to_vec(),
        Request::Write { at, bytes } => {
            state.write(at, Box::from(bytes));
            messages::written(bytes.len())
        }
        Request::Zero { at, len } => {
            let len = len.min(state.image.len().saturating_sub(at));
            state.write(at, vec![0; usize::try_from(len).unwrap_or_default()].into());
            Vec::new()
        }
        Request::Flush => {
            state.log.push(Entry::Flush);
            Vec::new()
        }
        Request::Nothing => Vec::new(),
        Request::Silent => return Ok(()),
        Request::Unknown => {
            drop(state);
            return { device }.write_all(&messages::refusal(unique, Errno::NOSYS));
        }
    };
    drop(state);
    let header = messages::success(unique, body.len());
    // One write is one reply.
    { device }.write_vectored(&[IoSlice::new(&header), IoSlice::new(&body)]).map(drop)
}

impl State {
    fn write(&mut self, at: u64, bytes: Box<[u8]>) {
        self.image.write(at, &bytes);
        self.log.push(Entry::Write { at, bytes });
    }
}
