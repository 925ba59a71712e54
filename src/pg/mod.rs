//! Everything that talks to Postgres: the worker's main thread, the hooks that set up shared
//! memory, and the SQL functions. The only folder that may name pgrx.
//!
//! - `shared` — the area in Postgres' shared memory, and who waits on which latch
//! - `worker` — the background worker's main thread, which holds the `Runtime`
//! - `command` — how a backend asks the worker for something and waits for the answer
//! - `functions` — the SQL surface, declared in `sql/pgraft--1.0.0.sql`
//! - `fence` — what each backend asks before it commits
//! - `nap` — how a backend waits, for an answer or for the fence
//! - `report` — the only place where failures become SQLSTATEs
//! - `facts` — what this server's Postgres is doing right now; of one part each: `receiver`,
//!   `slots`, `synchronous`, `timelines`
//! - `errand` — what needs a database connection, done by a process of its own

mod command;
mod errand;
mod facts;
mod fence;
mod functions;
mod guc;
mod nap;
mod receiver;
mod report;
mod shared;
mod slots;
mod synchronous;
mod timelines;
mod worker;

use pgrx::pg_sys;

/// What `_PG_init` does. Not preloaded, there is neither shared memory nor a worker, and each
/// function says so when it is called; loading the library alone must not fail, since `LOAD` and
/// `CREATE FUNCTION` do that.
pub fn init() {
    // SAFETY: plain flags of Postgres, read by its main thread, which is the only one there is.
    let (preloading, upgrading, is_server) = unsafe {
        (
            pg_sys::process_shared_preload_libraries_in_progress,
            pg_sys::IsBinaryUpgrade,
            pg_sys::IsPostmasterEnvironment,
        )
    };
    if !preloading {
        return;
    }
    guc::define();
    shared::install_hooks();
    // pg_upgrade starts servers of its own that must not talk to the cluster. Nor may its work, or
    // that of a server in single-user mode, wait for a lease that nobody is there to take.
    if !upgrading && is_server {
        fence::install();
        worker::register();
    }
}
