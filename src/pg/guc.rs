//! The settings that live in postgresql.conf; all others are in pgraft.conf.

use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::time::Duration;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

/// Ten seconds: several elections, and still less than most clients' own patience.
const COMMAND_TIMEOUT_MS: i32 = 10_000;
/// A shorter wait could not even see one heartbeat answered.
const COMMAND_TIMEOUT_MS_MIN: i32 = 10;
/// An hour; longer waits are for humans to repeat.
const COMMAND_TIMEOUT_MS_MAX: i32 = 3_600_000;

/// Two seconds: longer than a planned move, or a lease that is found again after a hiccup.
const FENCE_WAIT_MS: i32 = 2000;
/// An hour, as above.
const FENCE_WAIT_MS_MAX: i32 = 3_600_000;

static CONFIG_FILE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"pgraft.conf"));
static COMMAND_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(COMMAND_TIMEOUT_MS);
static FENCE: GucSetting<bool> = GucSetting::<bool>::new(true);
static FENCE_WAIT: GucSetting<i32> = GucSetting::<i32>::new(FENCE_WAIT_MS);

/// Makes the settings known to Postgres. Once, while it preloads libraries.
pub(super) fn define() {
    GucRegistry::define_string_guc(
        c"pgraft.config_file",
        c"Sets pgraft's configuration file.",
        c"A relative path starts at the data directory. The file is read again at each reload.",
        &CONFIG_FILE,
        GucContext::Postmaster,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"pgraft.command_timeout",
        c"Sets how long a pgraft function waits for the cluster to carry out a change.",
        c"After it the function fails, and says whether the change may still take effect.",
        &COMMAND_TIMEOUT,
        COMMAND_TIMEOUT_MS_MIN,
        COMMAND_TIMEOUT_MS_MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"pgraft.fence",
        c"Lets transactions that write commit only while this node holds the lease as primary.",
        c"For repair it may be off; each commit that this lets pass gives a warning.",
        &FENCE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgraft.fence_wait",
        c"Sets how long a commit waits for this node to hold the lease as primary.",
        c"After it the transaction fails and is rolled back. 0 does not wait.",
        &FENCE_WAIT,
        0,
        FENCE_WAIT_MS_MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    // SAFETY: a constant name; called while libraries are preloaded, on the main thread. From now
    // on a misspelt "pgraft.something" is refused.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pgraft".as_ptr()) };
}

/// The path of pgraft.conf, absolute.
pub(super) fn config_file() -> PathBuf {
    let name = CONFIG_FILE.get().filter(|name| !name.is_empty());
    data_directory().join(path_of(name.as_deref().unwrap_or(c"pgraft.conf")))
}

/// How long a function waits.
pub(super) fn command_timeout() -> Duration {
    Duration::from_millis(COMMAND_TIMEOUT.get().max(COMMAND_TIMEOUT_MS_MIN) as u64)
}

/// Whether the fence is in force in this session.
pub(super) fn fence() -> bool {
    FENCE.get()
}

/// How long a commit waits at the fence.
pub(super) fn fence_wait() -> Duration {
    Duration::from_millis(FENCE_WAIT.get().max(0) as u64)
}

/// Postgres' data directory.
pub(super) fn data_directory() -> PathBuf {
    // SAFETY: set by the postmaster before it loads libraries, and never changed after.
    let name = unsafe { pg_sys::DataDir };
    assert!(!name.is_null(), "the data directory is not known yet");
    // SAFETY: a C string that Postgres keeps until the process ends.
    path_of(unsafe { CStr::from_ptr(name) })
}

fn path_of(name: &CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
