//! Statements that the callbacks before a commit come too late for, or not at all: a hook looks at
//! the fence before they run.

use std::ffi::c_char;

use pgrx::pg_sys;

use super::commit;

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

// Declared here and not taken from pgrx, whose binding turns each ERROR into a panic and back, and
// drops what it does not know on the way: position in the statement, context, names of constraints.
unsafe extern "C-unwind" {
    fn standard_ProcessUtility(
        pstmt: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// While libraries are preloaded.
pub(super) fn install() {
    // SAFETY: the postmaster's only thread, and nobody calls the hook yet.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// What the fence has to do with a statement.
enum Concern {
    /// Nothing, or its transaction is looked at when it commits.
    None,
    /// It commits a transaction that is not its own.
    CommitPrepared,
    /// It does on disk what an ERROR at its commit would not undo.
    Irrevocable,
}

/// The hook. Not guarded: an ERROR of what it calls jumps over it. So nothing in this function may
/// need to be dropped.
#[allow(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
unsafe extern "C-unwind" fn process_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: Postgres calls this with a statement of its making, on the main thread. `PREVIOUS`
    // was written before any process was forked. What is called gets the arguments unchanged.
    unsafe {
        match concern((*pstmt).utilityStmt) {
            Concern::None => {}
            Concern::CommitPrepared => before_commit_prepared(),
            Concern::Irrevocable => before_irrevocable(),
        }
        let next = match PREVIOUS {
            Some(previous) => previous,
            None => standard_ProcessUtility,
        };
        next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
    }
}

/// # Safety
/// `statement` must be a node.
unsafe fn concern(statement: *mut pg_sys::Node) -> Concern {
    use pg_sys::NodeTag::*;
    // SAFETY: each node begins with its tag, which says what it is.
    unsafe {
        match (*statement).type_ {
            T_TransactionStmt => match (*statement.cast::<pg_sys::TransactionStmt>()).kind {
                pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED => Concern::CommitPrepared,
                _ => Concern::None,
            },
            T_CreatedbStmt | T_DropdbStmt | T_CreateTableSpaceStmt | T_DropTableSpaceStmt => {
                Concern::Irrevocable
            }
            _ => Concern::None,
        }
    }
}

/// Stays counted in until the enclosing transaction ends, which is when COMMIT PREPARED has.
#[pgrx::pg_guard]
extern "C-unwind" fn before_commit_prepared() {
    if !is_standby() {
        commit::begin();
    }
}

/// Its own commit is looked at as any other; this spares what can be spared.
#[pgrx::pg_guard]
extern "C-unwind" fn before_irrevocable() {
    if !is_standby() && !commit::is_under_way() {
        commit::begin();
        commit::end();
    }
}

/// On a standby Postgres itself refuses, in its own words.
fn is_standby() -> bool {
    // SAFETY: reads shared memory, at any time.
    unsafe { pg_sys::RecoveryInProgress() }
}
