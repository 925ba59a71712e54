//! A backend's side of a command slot: hand a request to the worker, wait for the answer, and leave
//! nothing behind whatever ends the wait.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use crate::cluster::{Answer, Done, Failure, FailureKind, Request};
use crate::shmem::{Call, Poll, SLOTS, Shared, SubmitError};
use crate::{sys, wire};

use super::{guc, nap, report, shared};

/// How much longer than the worker a backend waits: the worker knows better what went wrong, so its
/// answer at the end of the time should win.
const GRACE: Duration = Duration::from_millis(250);

/// What is true of a change without an answer.
const MAY_TAKE_EFFECT: &str = "It may or may not take effect.";

/// Has the worker, or the cluster, carry out `request`; returns what the SQL function returns, or
/// raises why not.
pub(super) fn run(request: Request) -> bool {
    report::tell(carry_out(request))
}

/// The same; returns all that came of it, notices untold.
pub(super) fn carry_out(request: Request) -> Done {
    let shared = shared::get_or_raise();
    ask(shared, &request).unwrap_or_else(|failure| report::raise(of_store(&request, failure)))
}

fn ask(shared: &'static Shared, request: &Request) -> Answer {
    free_slots_at_exit();
    let timeout_ns = guc::command_timeout().as_nanos() as u64;
    let deadline_ns = sys::now_boottime_ns() + timeout_ns;
    // SAFETY: this process's own numbers, set before it runs any query.
    let (pid, procno) = unsafe { (pg_sys::MyProcPid, pg_sys::MyProcNumber) };
    // Before the call, so that it happens after: the worker finds the slot free.
    let mut unfinished = WakeWorker(true);
    // From here on the handle frees the slot: also when an interrupt's ERROR unwinds.
    let slot = shared.slots().claim(pid, procno).ok_or_else(all_slots_in_use)?;
    let mut call = Call::submit(slot, encode(deadline_ns, request)).map_err(not_submitted)?;
    shared::worker_area().wake_worker();
    let until_ns = deadline_ns + GRACE.as_nanos() as u64;
    let answer = wait(&mut call, until_ns, timeout_ns).unwrap_or_else(|lost| {
        Err(match lost {
            Lost::Abandoned => worker_restarted(),
            Lost::OutOfTime => out_of_time(call.slot().was_taken(), shared),
        })
    });
    unfinished.0 = answer.is_err();
    answer
}

/// Wakes the worker if the wait for it ends in an ERROR: it may hold something for this backend.
struct WakeWorker(bool);

impl Drop for WakeWorker {
    fn drop(&mut self) {
        if self.0 {
            shared::worker_area().wake_worker();
        }
    }
}

/// A request as it lies in a slot: when its time is over, on CLOCK_BOOTTIME, then what is asked.
pub(super) fn encode(deadline_ns: u64, request: &Request) -> Vec<u8> {
    let mut bytes = deadline_ns.to_be_bytes().to_vec();
    wire::encode_request(request, &mut bytes);
    bytes
}

/// The reverse of `encode`; `None` for what no backend of this version writes.
pub(super) fn decode(bytes: &[u8]) -> Option<(u64, Request)> {
    let (deadline_ns, request) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*deadline_ns), wire::decode_request(request).ok()?))
}

/// Why no answer came.
enum Lost {
    /// The worker ended.
    Abandoned,
    /// It took too long.
    OutOfTime,
}

fn wait(call: &mut Call<'_>, mut until_ns: u64, timeout_ns: u64) -> Result<Answer, Lost> {
    loop {
        match call.poll() {
            Poll::Answered(bytes) => {
                let answer = wire::decode_answer(&bytes);
                return Ok(answer.unwrap_or_else(|_| Err(unreadable_answer())));
            }
            Poll::Abandoned => return Err(Lost::Abandoned),
            Poll::Moved => {
                if call.slot().was_taken() {
                    // The answer is there: no longer the time to have it, but that of each part.
                    until_ns = sys::now_boottime_ns() + timeout_ns;
                }
                shared::worker_area().wake_worker();
            }
            Poll::Waiting => {}
        }
        let now_ns = sys::now_boottime_ns();
        if now_ns >= until_ns {
            return Err(Lost::OutOfTime);
        }
        nap::sleep(until_ns - now_ns, wait_event());
    }
}

/// What pg_stat_activity shows meanwhile: Extension / PgraftCommand.
fn wait_event() -> u32 {
    static EVENT: OnceLock<u32> = OnceLock::new();
    // SAFETY: the main thread of a backend; the name is copied.
    *EVENT.get_or_init(|| unsafe { pg_sys::WaitEventExtensionNew(c"PgraftCommand".as_ptr()) })
}

/// A backend that is terminated ends without unwinding: Postgres calls this instead.
fn free_slots_at_exit() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: a guarded function that stays loaded; once for each process, of the few that
        // Postgres has room for.
        unsafe { pg_sys::before_shmem_exit(Some(free_slots), pg_sys::Datum::from(0)) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn free_slots(_code: i32, _arg: pg_sys::Datum) {
    // SAFETY: this process's own number.
    let own = unsafe { pg_sys::MyProcPid };
    if let Some(shared) = shared::get()
        && shared.slots().reclaim(|pid| pid != own) > 0
    {
        // It may hold something for this backend.
        shared::worker_area().wake_worker();
    }
}

fn failure(kind: FailureKind, message: &str, detail: String, hint: &str) -> Failure {
    Failure { kind, message: message.to_owned(), detail, hint: hint.to_owned() }
}

/// What a failure means of the store: a read changes nothing, and what became of a change the store
/// itself can say.
fn of_store(request: &Request, failure: Failure) -> Failure {
    if failure.kind != FailureKind::OutcomeUnknown {
        return failure;
    }
    match request {
        Request::Store { .. } => {
            let hint = "Read the key before you try again.".to_owned();
            Failure { hint, ..failure }
        }
        Request::Get { .. } | Request::Keys { .. } | Request::Items { .. } => Failure {
            kind: FailureKind::Unavailable,
            detail: failure.detail.replacen(MAY_TAKE_EFFECT, "Nothing was changed.", 1),
            hint: "Try again.".to_owned(),
            ..failure
        },
        _ => failure,
    }
}

fn not_submitted(error: SubmitError) -> Failure {
    let message = format!("cannot pass the request to the pgraft worker: {error}");
    failure(FailureKind::InvalidValue, &message, String::new(), "")
}

fn all_slots_in_use() -> Failure {
    let detail = format!("All {SLOTS} command slots are in use.");
    failure(FailureKind::Busy, "too many pgraft requests are under way", detail, "Try again later.")
}

fn unreadable_answer() -> Failure {
    let message = "could not read the pgraft worker's answer";
    let hint = "Restart the server if pgraft's library was replaced while it ran.";
    failure(FailureKind::OutcomeUnknown, message, String::new(), hint)
}

fn worker_restarted() -> Failure {
    let message = "the pgraft worker ended while it carried out the request";
    let detail = MAY_TAKE_EFFECT.to_owned();
    let hint = "Look at pgraft_get_nodes() before you try again; asking twice does no harm.";
    failure(FailureKind::OutcomeUnknown, message, detail, hint)
}

fn out_of_time(taken: bool, shared: &Shared) -> Failure {
    let seconds = guc::command_timeout().as_secs_f64();
    if !taken {
        let message = format!("the pgraft worker did not take the request within {seconds} s");
        let detail = "Nothing was changed.".to_owned();
        let hint = "See the server's log for what keeps the worker from running.";
        return failure(FailureKind::Unavailable, &message, detail, hint);
    }
    let message = format!("the request was not confirmed within {seconds} s");
    let detail = format!("{MAY_TAKE_EFFECT}{}", unreached(shared));
    let hint = "Look at pgraft_get_nodes() before you try again; asking twice does no harm.";
    failure(FailureKind::OutcomeUnknown, &message, detail, hint)
}

/// Who was not reached, as a sentence behind another one; empty when nobody is known to be away.
fn unreached(shared: &Shared) -> String {
    let members = shared.page().view().map(|view| view.members).unwrap_or_default();
    let away: Vec<String> = members
        .iter()
        .filter(|member| member.reachable == Some(false))
        .map(|member| format!("{} ({}:{})", member.id, member.address, member.port))
        .collect();
    match away.is_empty() {
        true => String::new(),
        false => format!(" Not reached: node {}.", away.join(", node ")),
    }
}
