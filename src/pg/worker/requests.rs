//! Requests from the command slots: what concerns this node alone is done here, the rest is the
//! runtime's. Every request taken is answered, whatever becomes of the runtime.

use std::time::Duration;

use crate::cluster::{Answer, Done, Failure, FailureKind, Request};
use crate::pg::{command, shared};
use crate::runtime::failures::failure;
use crate::shmem::{Counter, SlotId};
use crate::{sys, wire};

use super::{Stopping, Worker};

/// Answers of the whole store's size that are worked on or handed out at once: what the worker's
/// memory is for them. A list of a full store takes a tenth of a second, so the others wait.
pub(super) const LISTS_MAX: usize = 4;
/// How often to look for slots of processes that ended without freeing them. None should: those
/// that end in order free theirs, and after a crash Postgres makes all shared memory anew.
const RECLAIM_NS: u64 = 1_000_000_000;

/// A request that waits for its turn.
#[derive(Debug)]
pub(super) struct List {
    request: Request,
    deadline_ns: u64,
}

/// What the threads of consensus are given to end while the worker goes on: one may be in the
/// middle of an fsync.
const THREADS_END_AT_MOST: Duration = Duration::from_secs(5);

impl Worker {
    /// Does what backends wait for at the slots.
    pub(super) fn take_requests(&mut self) {
        let now_ns = sys::now_boottime_ns();
        for taken in self.desk.serve(now_ns, shared::set_latch) {
            self.shared.page().add(Counter::Requests, 1);
            let token = taken.id.token();
            match command::decode(&taken.bytes) {
                Some((deadline_ns, request)) => self.serve(token, request, deadline_ns),
                None => self.answer(token, Err(unreadable())),
            }
        }
        self.begin_lists();
        if now_ns.saturating_sub(self.reclaimed_ns) >= RECLAIM_NS {
            self.reclaimed_ns = now_ns;
            self.shared.slots().reclaim(sys::pid_in_use);
        }
    }

    fn serve(&mut self, token: u64, request: Request, deadline_ns: u64) {
        let answer = match request {
            Request::Init => self.init(),
            Request::Start => self.start(),
            Request::Stop => return self.begin_stop(token, deadline_ns),
            Request::SetDebug { enabled } => self.set_debug(enabled),
            Request::Keys { .. } | Request::Items { .. } => {
                let list = List { request, deadline_ns };
                return self.lists.wait(SlotId::from_token(token), list);
            }
            request => return self.pass_on(token, request, deadline_ns),
        };
        self.answer(token, answer);
    }

    /// Passes on the lists whose turn it is.
    fn begin_lists(&mut self) {
        loop {
            let (slots, desk, passed_on) = (self.shared.slots(), &self.desk, &self.passed_on);
            let runs = |id: SlotId| passed_on.contains(&id.token()) || desk.is_handing_out(id);
            let Some((id, list)) = self.lists.next(|id| slots.is_held(id), runs) else { return };
            self.pass_on(id.token(), list.request, list.deadline_ns);
        }
    }

    fn set_debug(&mut self, enabled: bool) -> Answer {
        self.shared.page().set_debug(enabled);
        self.logger.set_debug(enabled);
        Ok(Done { value: true, ..Done::default() })
    }

    fn pass_on(&mut self, token: u64, request: Request, deadline_ns: u64) {
        let refusal = match &self.runtime {
            Some(runtime) if runtime.request(token, request, ms_until(deadline_ns)) => {
                self.passed_on.insert(token);
                return;
            }
            Some(_) => too_busy(),
            None => self.not_running(),
        };
        self.answer(token, Err(refusal));
    }

    /// `pgraft_stop()`: the runtime gives leadership away first; `take_answer` goes on from there.
    fn begin_stop(&mut self, token: u64, deadline_ns: u64) {
        let Some(runtime) = &self.runtime else {
            let answer = self.stay_stopped();
            return self.answer(token, answer);
        };
        match &mut self.stopping {
            Some(stopping) => stopping.tokens.push(token),
            None => {
                // Not taken: it happens at the end of its time.
                let _ = runtime.request(token, Request::Stop, ms_until(deadline_ns));
                self.stopping = Some(Stopping { tokens: vec![token], by_ns: deadline_ns });
            }
        }
    }

    /// The runtime answers.
    pub(super) fn take_answer(&mut self, token: u64, answer: Answer) {
        let of_stop = |stopping: &Stopping| stopping.tokens.contains(&token);
        if self.stopping.as_ref().is_some_and(of_stop) {
            return self.finish_stop(answer.unwrap_or_default().warning);
        }
        self.passed_on.remove(&token);
        self.answer(token, answer);
    }

    /// The runtime should have answered long ago: it is stuck.
    pub(super) fn stop_if_overdue(&mut self) {
        let now_ns = sys::now_boottime_ns();
        if self.stopping.as_ref().is_some_and(|stopping| now_ns >= stopping.by_ns) {
            self.finish_stop("consensus ended without handing leadership over".to_owned());
        }
    }

    /// Ends what `pgraft_stop()` began.
    pub(super) fn finish_stop(&mut self, warning: String) {
        self.stop_runtime("consensus was stopped on this node meanwhile");
        let stayed = self.stay_stopped();
        let answer = stayed.map(|_| Done { value: true, warning, ..Done::default() });
        for token in self.stopping.take().map_or(Vec::new(), |stopping| stopping.tokens) {
            self.answer(token, answer.clone());
        }
    }

    /// Ends the runtime and answers those who wait for it.
    pub(super) fn stop_runtime(&mut self, why: &str) {
        if let Some(runtime) = self.runtime.take()
            && !runtime.stop(THREADS_END_AT_MOST)
        {
            // Nothing may run here again beside what is left of it.
            log::error!("the pgraft worker restarts to end them");
            self.broken = true;
        }
        // What it had still answered in time counts.
        self.take_messages();
        for token in std::mem::take(&mut self.passed_on) {
            self.answer(token, Err(cut_short(why)));
        }
    }

    fn answer(&mut self, token: u64, answer: Answer) {
        let mut bytes = Vec::new();
        wire::encode_answer(&answer, &mut bytes);
        match self.desk.answer(SlotId::from_token(token), bytes, sys::now_boottime_ns()) {
            Some(procno) => shared::set_latch(procno),
            None => self.shared.page().add(Counter::LateAnswers, 1),
        }
    }
}

fn ms_until(deadline_ns: u64) -> u32 {
    let ms = deadline_ns.saturating_sub(sys::now_boottime_ns()) / 1_000_000;
    ms.try_into().unwrap_or(u32::MAX)
}

fn unreadable() -> Failure {
    failure(
        FailureKind::WrongState,
        "the pgraft worker could not read the request",
        "",
        "Restart the server if pgraft's library was replaced while it ran.",
    )
}

fn too_busy() -> Failure {
    let detail = "Consensus does not keep up with what it is to do; nothing was changed.";
    failure(FailureKind::Busy, "too many pgraft requests are under way", detail, "Try again later.")
}

fn cut_short(why: &str) -> Failure {
    failure(
        FailureKind::OutcomeUnknown,
        why,
        "The request may or may not take effect.",
        "Look at pgraft_get_nodes() before you try again; asking twice does no harm.",
    )
}
