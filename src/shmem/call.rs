//! The backend's side of a request that may be longer than a slot, with an answer that may be, too:
//! one part at a time goes through.

use super::slots::{Look, SlotHandle};

/// The longest request: a compare-and-swap of two values of 8 KiB, its key, and what belongs to it.
pub const REQUEST_BYTES_MAX: usize = 18 << 10;

/// What a waiting backend finds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Poll {
    /// Nothing new. Sleep.
    Waiting,
    /// A part went through, in whichever direction. Wake the worker; it goes on then.
    Moved,
    /// All of the answer's bytes.
    Answered(Vec<u8>),
    /// The worker ended after it took the request: the outcome is unknown.
    Abandoned,
}

/// Why a request was not submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitError {
    /// Longer than `REQUEST_BYTES_MAX`.
    TooLong,
    /// Submitted before, or the slot was taken away.
    NotClaimed,
}

impl std::fmt::Display for SubmitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SubmitError::TooLong => {
                write!(f, "the request is longer than {REQUEST_BYTES_MAX} bytes")
            }
            SubmitError::NotClaimed => f.write_str("the command slot is not claimed"),
        }
    }
}

impl std::error::Error for SubmitError {}

/// A request under way. Dropped, it frees its slot; if that was in the middle of the answer, the
/// worker should be woken, to forget the rest.
#[derive(Debug)]
pub struct Call<'a> {
    slot: SlotHandle<'a>,
    request: Vec<u8>,
    /// How much of the request the worker was given.
    sent: usize,
    /// What has come of the answer.
    answer: Vec<u8>,
}

impl<'a> Call<'a> {
    /// Submits a request through a slot just claimed; the worker must then be woken.
    pub fn submit(slot: SlotHandle<'a>, request: Vec<u8>) -> Result<Call<'a>, SubmitError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(SubmitError::TooLong);
        }
        let sent = slot.submit(&request, 0).ok_or(SubmitError::NotClaimed)?;
        Ok(Call { slot, request, sent, answer: Vec::new() })
    }

    /// Goes on as far as it can. To be called after each wake-up of the latch.
    pub fn poll(&mut self) -> Poll {
        match self.slot.look() {
            Look::Waiting => Poll::Waiting,
            Look::Abandoned => Poll::Abandoned,
            Look::SendOn => match self.slot.submit(&self.request, self.sent) {
                Some(sent) => {
                    self.sent = sent;
                    Poll::Moved
                }
                None => Poll::Abandoned,
            },
            Look::Answered(part) => {
                // Cannot be: the worker goes on only when this side has asked it to.
                debug_assert_eq!(part.offset, self.answer.len());
                if self.answer.is_empty() {
                    self.answer.reserve(part.total);
                }
                self.answer.extend_from_slice(&part.bytes);
                match self.answer.len() >= part.total {
                    true => Poll::Answered(std::mem::take(&mut self.answer)),
                    false if self.slot.ask_for_more() => Poll::Moved,
                    false => Poll::Abandoned,
                }
            }
        }
    }

    /// The slot that it goes through.
    pub fn slot(&self) -> &SlotHandle<'a> {
        &self.slot
    }
}
