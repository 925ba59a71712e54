//! What a daemon needs of the system: signals as bytes to read, another user, the background,
//! children that do not outlive it, room on a disk.

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

pub use libc::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM};

/// The writing end of the pair that signals come through; -1: none yet.
static SIGNALS: AtomicI32 = AtomicI32::new(-1);

extern "C" fn pass_on(signal: c_int) {
    let byte = signal as u8;
    // SAFETY: send is async-signal-safe, the descriptor is never closed, and one byte is readable.
    // errno is put back, for the code that was interrupted. A full socket has signals enough.
    unsafe {
        let errno = *libc::__errno_location();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::send(SIGNALS.load(Ordering::Relaxed), (&raw const byte).cast(), 1, flags);
        *libc::__errno_location() = errno;
    }
}

/// From now on these signals come as bytes, their numbers, through what is returned. Once in a
/// process. A program that is executed has the defaults again.
pub fn signals_as_bytes(signals: &[i32]) -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    SIGNALS.store(write.into_raw_fd(), Ordering::Relaxed);
    for &signal in signals {
        // SAFETY: a sigaction is plain data, valid when zeroed; the handler does only what is
        // async-signal-safe.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = pass_on as extern "C" fn(c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(read)
}

/// Sends a signal to one process. `Err` if there is none, or it is another's.
pub fn signal_process(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: plain numbers; pid > 0 names one process and no group.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: it cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// This process' user.
pub fn effective_uid() -> u32 {
    // SAFETY: it cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

/// Becomes another user, for good, with the groups that this user has. Only for root, and before
/// any thread is started.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let mut buffer = vec![0 as libc::c_char; 16 << 10];
    // SAFETY: passwd is plain data, valid when zeroed; the buffer outlives every use of its strings
    // below; its length is passed along.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
        let grouped = match found.is_null() {
            // A user without a name has no other groups.
            true => libc::setgroups(1, &gid),
            false => libc::initgroups(CStr::from_ptr(entry.pw_name).as_ptr(), gid),
        };
        if grouped != 0 || libc::setgid(gid) != 0 || libc::setuid(uid) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Goes on in a child, in a session of its own; the process that was called ends with status 0.
/// Before any thread is started.
pub fn go_to_background() -> io::Result<()> {
    // SAFETY: there is one thread only, so the child may go on as the parent would have; the parent
    // ends without running what is the child's now.
    unsafe {
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            _ => libc::_exit(0),
        }
        if libc::setsid() == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for standard in 0..=1 {
        // SAFETY: both descriptors are open, or the second is made so.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Makes `file` this process' standard error.
pub fn standard_error_to(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is open; 2 is made to be the same.
    match unsafe { libc::dup2(file.as_raw_fd(), 2) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The program that the command runs is killed when the thread that started it ends, with its
/// process or before.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec it makes two system calls and nothing else.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // It may have ended before.
            match libc::getppid() as u32 == parent {
                true => Ok(()),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
}

/// All of the file system that `path` is on, and what this user may still use of it, in bytes.
pub fn room(path: &Path) -> io::Result<(u64, u64)> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: a statvfs is plain numbers, valid when zeroed; the path ends in a zero byte.
    let (result, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat), stat)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    #[test]
    fn signals_come_as_bytes() {
        let mut signals = signals_as_bytes(&[libc::SIGUSR1, libc::SIGWINCH]).unwrap();
        signals.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let own = super::super::own_pid();
        for signal in [libc::SIGUSR1, libc::SIGWINCH] {
            signal_process(own, signal).unwrap();
            let mut byte = [0];
            signals.read_exact(&mut byte).unwrap();
            assert_eq!(i32::from(byte[0]), signal);
        }
        assert!(signal_process(0, libc::SIGUSR1).is_err());
        assert!(signal_process(i32::MAX, libc::SIGUSR1).is_err());
    }

    #[test]
    fn there_is_room_somewhere_and_none_nowhere() {
        let (total, free) = room(Path::new("/")).unwrap();
        assert!(total > 0 && free <= total);
        assert!(room(Path::new("/no/such/place")).is_err());
    }

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            end_with_parent(command.arg("60"));
            command.spawn().unwrap()
        });
        let mut child = child.join().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(SIGKILL));
    }
}
