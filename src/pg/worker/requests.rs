//! Requests from the command slots: what concerns this node alone is done here, the rest is the
//! runtime's. Every request taken is answered, whatever becomes of the runtime.

use std::time::Duration;

use crate::cluster::{Answer, Done, Failure, FailureKind, Request};
use crate::pg::{command, shared};
use crate::runtime::failures::failure;
use crate::shmem::{ANSWER_BYTES_MAX, Counter, SlotId, cut};
use crate::{sys, wire};

use super::{Stopping, Worker};

/// Of each text in an answer: three of them, escaped by nothing, and a few numbers fit a slot.
const ANSWER_TEXT_BYTES_MAX: usize = (ANSWER_BYTES_MAX - 128) / 3;

/// What the threads of consensus are given to end while the worker goes on: one may be in the
/// middle of an fsync.
const THREADS_END_AT_MOST: Duration = Duration::from_secs(5);

impl Worker {
    /// Takes every request that waits in a slot.
    pub(super) fn take_requests(&mut self) {
        for taken in self.shared.slots().requested() {
            self.shared.page().add(Counter::Requests, 1);
            let token = taken.id.token();
            match command::decode(&taken.bytes) {
                Some((deadline_ns, request)) => self.serve(token, request, deadline_ns),
                None => self.answer(token, Err(unreadable())),
            }
        }
        self.shared.slots().reclaim(sys::pid_in_use);
    }

    fn serve(&mut self, token: u64, request: Request, deadline_ns: u64) {
        let answer = match request {
            Request::Init => self.init(),
            Request::Start => self.start(),
            Request::Stop => return self.begin_stop(token, deadline_ns),
            Request::SetDebug { enabled } => self.set_debug(enabled),
            request => return self.pass_on(token, request, deadline_ns),
        };
        self.answer(token, answer);
    }

    fn set_debug(&mut self, enabled: bool) -> Answer {
        self.shared.page().set_debug(enabled);
        self.logger.set_debug(enabled);
        Ok(Done { value: true, ..Done::default() })
    }

    fn pass_on(&mut self, token: u64, request: Request, deadline_ns: u64) {
        match &self.runtime {
            Some(runtime) => {
                runtime.request(token, request, ms_until(deadline_ns));
                self.passed_on.insert(token);
            }
            None => self.answer(token, Err(self.not_running())),
        }
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
                runtime.request(token, Request::Stop, ms_until(deadline_ns));
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

    fn answer(&self, token: u64, answer: Answer) {
        let mut bytes = Vec::new();
        wire::encode_answer(&shortened(answer), &mut bytes);
        let id = SlotId::from_token(token);
        match self.shared.slots().answer(id.index, id.generation, &bytes) {
            Some(procno) => shared::set_latch(procno),
            None => self.shared.page().add(Counter::LateAnswers, 1),
        }
    }
}

/// An answer that fits its slot.
fn shortened(answer: Answer) -> Answer {
    let short = |text: String| cut(&text, ANSWER_TEXT_BYTES_MAX).to_owned();
    match answer {
        Ok(done @ Done { .. }) => {
            Ok(Done { notice: short(done.notice), warning: short(done.warning), ..done })
        }
        Err(Failure { kind, message, detail, hint }) => {
            Err(Failure { kind, message: short(message), detail: short(detail), hint: short(hint) })
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

fn cut_short(why: &str) -> Failure {
    failure(
        FailureKind::OutcomeUnknown,
        why,
        "The request may or may not take effect.",
        "Look at pgraft_get_nodes() before you try again; asking twice does no harm.",
    )
}
