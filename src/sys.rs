//! The few C calls that std lacks, behind safe functions: the clock of leases, signal masks, SysV
//! shared memory, random bytes, processes. Any thread may call them; none blocks.

pub mod daemon;

use std::ffi::c_int;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since boot on `CLOCK_BOOTTIME`: monotonic, the same for all processes of the host,
/// and going on while the machine is suspended, as a lease must.
#[inline]
pub fn now_boottime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that the call only writes to. It cannot fail: the clock
    // exists on every Linux that has a supported PostgreSQL. If it did, `now` stays zero, and at
    // zero no lease is over by mistake: leases are taken and read with the same clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Microseconds since 1970, for people only: this clock may be set back.
pub fn unix_time_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// `N` bytes of the kernel's random source.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is writable for its whole length, which is passed along.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        if got >= 0 {
            filled += got as usize;
            continue;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(bytes)
}

/// While it lives, no signal handler runs on the thread that made it, nor on threads that it
/// starts, which inherit the mask. Dropping it restores the maker's mask.
#[derive(Debug)]
pub struct SignalsBlocked {
    before: libc::sigset_t,
    /// A mask belongs to a thread: not `Send`.
    of_this_thread: PhantomData<*const ()>,
}

/// Blocks every signal on this thread but those that report a fault of the thread itself, which
/// cannot be blocked with any sense (PostgreSQL's `pqinitmask` leaves out the same ones).
pub fn block_all_signals() -> io::Result<SignalsBlocked> {
    let faults = [
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGSYS,
        libc::SIGCONT,
    ];
    // SAFETY: a sigset_t is plain bits, valid when zeroed; both sets are locals that the calls only
    // read and write; the signal numbers are valid, so sigfillset and sigdelset cannot fail.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut mask);
        for signal in faults {
            libc::sigdelset(&mut mask, signal);
        }
        match libc::pthread_sigmask(libc::SIG_SETMASK, &mask, &mut before) {
            0 => Ok(SignalsBlocked { before, of_this_thread: PhantomData }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: `before` was written by pthread_sigmask on this thread (the guard is not Send).
        // It cannot fail with a valid `how`; a drop has nobody to tell.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

/// This process.
pub fn own_pid() -> i32 {
    std::process::id() as i32
}

/// When process `pid` started, in clock ticks since boot; with the pid it names a process for good,
/// as the pid alone, used again later, does not. `None` when there is no such process.
pub fn process_start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may itself hold spaces and ")".
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    // Field 3, the state, comes first. A zombie holds no memory and serves nobody: it is gone.
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(22 - 4)?.parse().ok()
}

/// Whether the process that had `pid` and started at `start_time` still runs.
pub fn process_lives(pid: i32, start_time: u64) -> bool {
    process_start_time(pid) == Some(start_time)
}

/// Whether any process has `pid`, without opening a file.
pub fn pid_in_use(pid: i32) -> bool {
    if pid <= 0 {
        return false;
    }
    // SAFETY: signal 0 only checks; pid > 0 so that it names one process and no group.
    let result = unsafe { libc::kill(pid, 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Writes as much as the socket takes without waiting; how many bytes that was.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the descriptor is borrowed, so it is open; `bytes` is readable for its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Ends a blocking `accept` on a listening socket, and every later one, from another thread.
pub fn shutdown_listener(listener: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so it is open and stays so for the call.
    match unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A SysV shared memory segment by its number, not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentId(c_int);

/// What the kernel says of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentStat {
    /// Its size as created.
    pub bytes: usize,
    /// The process that created it.
    pub creator_pid: i32,
    /// The user that owns it.
    pub owner_uid: u32,
    /// Its permission bits, as in `chmod`.
    pub mode: u32,
    /// How many mappings it has.
    pub attached: u64,
}

/// Creates the segment `key`; `AlreadyExists` when there is one. Its bytes are zero.
pub fn segment_create(key: i32, bytes: usize, mode: u32) -> io::Result<SegmentId> {
    segment_get(key, bytes, libc::IPC_CREAT | libc::IPC_EXCL | (mode as c_int & 0o777))
}

/// Finds the segment `key`; `NotFound` when there is none.
pub fn segment_find(key: i32) -> io::Result<SegmentId> {
    segment_get(key, 0, 0)
}

fn segment_get(key: i32, bytes: usize, flags: c_int) -> io::Result<SegmentId> {
    // SAFETY: shmget takes plain numbers and touches no memory of ours.
    match unsafe { libc::shmget(key, bytes, flags) } {
        -1 => Err(io::Error::last_os_error()),
        id => Ok(SegmentId(id)),
    }
}

/// Asks the kernel about a segment.
pub fn segment_stat(segment: SegmentId) -> io::Result<SegmentStat> {
    // SAFETY: a shmid_ds is plain numbers, valid when zeroed; IPC_STAT only writes to it.
    let (result, stat) = unsafe {
        let mut stat: libc::shmid_ds = std::mem::zeroed();
        (libc::shmctl(segment.0, libc::IPC_STAT, &mut stat), stat)
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(SegmentStat {
        bytes: stat.shm_segsz,
        creator_pid: stat.shm_cpid,
        owner_uid: stat.shm_perm.uid,
        mode: u32::from(stat.shm_perm.mode) & 0o777,
        attached: stat.shm_nattch,
    })
}

/// Removes a segment; it goes when the last mapping does, and its key is free at once.
pub fn segment_remove(segment: SegmentId) -> io::Result<()> {
    // SAFETY: IPC_RMID ignores the buffer; removal leaves existing mappings valid.
    match unsafe { libc::shmctl(segment.0, libc::IPC_RMID, std::ptr::null_mut()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A segment mapped into this process until dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread: any thread may use or unmap it. What
// is at the address is the user's concern, who gets only a raw pointer.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives nothing but the address and the size.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a segment, page-aligned; `read_only` ones fault when written to.
    pub fn attach(segment: SegmentId, read_only: bool) -> io::Result<Mapping> {
        let bytes = segment_stat(segment)?.bytes;
        let flags = if read_only { libc::SHM_RDONLY } else { 0 };
        // SAFETY: a null address lets the kernel choose a free range, so no mapping of ours is
        // replaced.
        let start = unsafe { libc::shmat(segment.0, std::ptr::null(), flags) };
        if start as isize == -1 {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, bytes })
    }

    /// Where it starts; valid while `self` lives.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes may be used.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` came from shmat and is unmapped only here. It cannot fail for such an
        // address; a drop has nobody to tell.
        unsafe { libc::shmdt(self.start.as_ptr().cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::process::Command;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    #[test]
    fn the_clock_of_leases_goes_forward() {
        let first = now_boottime_ns();
        thread::sleep(std::time::Duration::from_millis(2));
        let passed = now_boottime_ns() - first;
        assert!(passed >= 2_000_000, "{passed}");
        assert!(unix_time_us() > 1_700_000_000_000_000);
    }

    #[test]
    fn random_bytes_differ() {
        let (a, b) = (random_bytes::<300>().unwrap(), random_bytes::<300>().unwrap());
        assert_ne!(a, b);
        assert_ne!(a[256..], [0; 44], "a long request is filled to its end");
        assert_eq!(random_bytes::<0>().unwrap(), []);
    }

    #[test]
    fn a_process_is_known_by_its_start_until_it_is_gone() {
        let own = process_start_time(own_pid()).unwrap();
        assert!(process_lives(own_pid(), own) && !process_lives(own_pid(), own + 1));
        assert!(pid_in_use(own_pid()) && pid_in_use(1));
        assert!(!pid_in_use(0) && !pid_in_use(-1) && !pid_in_use(i32::MAX));
        assert_eq!(process_start_time(-1), None);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let start_time = process_start_time(pid).unwrap();
        assert!(process_lives(pid, start_time));
        child.kill().unwrap();
        // Not yet waited for: a zombie has its pid still, but it is gone.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while process_lives(pid, start_time) {
            assert!(std::time::Instant::now() < deadline, "a zombie is taken to be alive");
            thread::yield_now();
        }
        assert!(pid_in_use(pid));
        child.wait().unwrap();
        assert!(!pid_in_use(pid));
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_obstacle() {
        let dir = std::env::temp_dir().join(format!("pgraft-sys-{}", own_pid()));
        std::fs::create_dir_all(&dir).unwrap();
        let program = dir.join("a) b (c");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let started = process_start_time(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(started.unwrap() >= process_start_time(own_pid()).unwrap());
    }

    static HANDLED: AtomicU32 = AtomicU32::new(0);

    extern "C" fn count(_: c_int) {
        HANDLED.fetch_add(1, Ordering::SeqCst);
    }

    /// Sends SIGUSR2 to the calling thread and says whether its handler ran.
    fn handler_runs() -> bool {
        let before = HANDLED.load(Ordering::SeqCst);
        // SAFETY: pthread_self is this thread, which lives; the signal has a handler.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        HANDLED.load(Ordering::SeqCst) != before
    }

    #[test]
    fn blocked_signals_reach_neither_the_thread_nor_those_it_starts_and_come_back_after() {
        let handler = count as extern "C" fn(c_int);
        // SAFETY: the handler does one atomic addition, which is async-signal-safe; no other test
        // uses SIGUSR2.
        unsafe { libc::signal(libc::SIGUSR2, handler as libc::sighandler_t) };
        assert!(handler_runs());
        let outer = block_all_signals().unwrap();
        let inner = block_all_signals().unwrap();
        assert!(!thread::spawn(handler_runs).join().unwrap(), "a new thread runs handlers");
        drop(inner);
        assert!(!handler_runs(), "the inner guard restored more than it had found");
        let before = HANDLED.load(Ordering::SeqCst);
        drop(outer);
        assert_eq!(HANDLED.load(Ordering::SeqCst), before + 1, "what was pending is delivered now");
        assert!(handler_runs());
    }

    #[test]
    fn a_listener_shut_down_ends_a_waiting_accept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| listener.accept().is_err());
            thread::sleep(std::time::Duration::from_millis(20));
            shutdown_listener(listener.as_fd()).unwrap();
            assert!(waiting.join().unwrap());
        });
        assert!(listener.accept().is_err(), "and every later one");
    }
}
