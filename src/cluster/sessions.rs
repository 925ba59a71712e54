//! What each node's requests came to, so that one that comes twice is carried out once
//! (dissertation §6.3).
//!
//! A session is one run of one node. Its requests are numbered; with each the node says below which
//! number it waits for nothing any more, and only outcomes from there on are remembered.

use crate::bugs::{self, Bug};
use std::collections::BTreeMap;

use super::Uuid;
use super::store::RequestId;
use crate::raft::NodeId;

/// The most outcomes remembered of a node. A node whose oldest open request lies further back takes
/// no new ones.
pub const OUTCOMES_MAX: u64 = 4096;

/// The newest session of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// The node's data directory: only within one are sessions ordered.
    pub directory: Uuid,
    /// Its number.
    pub session: u64,
    /// The node was removed: nothing of this session is carried out any more, even should the node
    /// be added again.
    pub closed: bool,
    /// No request below is carried out any more. Never falls within a session.
    pub oldest: u64,
    /// Whether the request of that serial was done. Invariant: all in
    /// `oldest..oldest + OUTCOMES_MAX`; none once closed.
    pub outcomes: BTreeMap<u64, bool>,
}

/// What to do with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Carry it out, then `Sessions::remember`.
    New,
    /// It was carried out before; this came of it.
    Done(bool),
    /// Nothing: nobody waits for it any more.
    Over,
}

/// All nodes' newest sessions; at most one a node id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sessions(BTreeMap<NodeId, Session>);

impl Sessions {
    /// A node's newest session that asked for something.
    pub fn get(&self, node: NodeId) -> Option<&Session> {
        self.0.get(&node)
    }

    /// All of them, in the order of the nodes' ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&NodeId, &Session)> {
        self.0.iter()
    }

    /// Whether `id` would change nothing any more.
    pub fn is_over(&self, id: &RequestId) -> bool {
        self.get(id.node).is_some_and(|known| {
            let later = known.session > id.session;
            let over =
                known.closed || id.serial < known.oldest || known.outcomes.contains_key(&id.serial);
            known.directory == id.directory && (later || known.session == id.session && over)
        })
    }

    /// Whose turn it is; `id` is of a member with that directory.
    pub(super) fn turn(&mut self, id: &RequestId) -> Turn {
        if id.serial.saturating_sub(id.oldest) >= OUTCOMES_MAX {
            return Turn::Over; // no node sends this; memory is bounded all the same
        }
        let begun = || Session {
            directory: id.directory,
            session: id.session,
            closed: false,
            oldest: id.oldest,
            outcomes: BTreeMap::new(),
        };
        let known = self.0.entry(id.node).or_insert_with(begun);
        if known.directory != id.directory || known.session < id.session {
            *known = begun();
        }
        if known.session > id.session || known.closed {
            return Turn::Over;
        }
        known.oldest = known.oldest.max(id.oldest);
        while known.outcomes.first_key_value().is_some_and(|(serial, _)| *serial < known.oldest) {
            known.outcomes.pop_first();
        }
        let again = bugs::on(Bug::RetryTwice) || bugs::on(Bug::ApplyTwice);
        match known.outcomes.get(&id.serial) {
            Some(_) if again => Turn::New,
            Some(done) => Turn::Done(*done),
            None if id.serial < known.oldest => Turn::Over,
            None => Turn::New,
        }
    }

    /// A new request was carried out.
    pub(super) fn remember(&mut self, id: &RequestId, done: bool) {
        if let Some(known) = self.0.get_mut(&id.node) {
            known.outcomes.insert(id.serial, done);
        }
    }

    /// `node` was removed.
    pub(super) fn close(&mut self, node: NodeId) {
        if let Some(known) = self.0.get_mut(&node) {
            known.closed = true;
            known.outcomes.clear();
        }
    }
}

/// Sessions as a snapshot holds them.
impl From<BTreeMap<NodeId, Session>> for Sessions {
    fn from(sessions: BTreeMap<NodeId, Session>) -> Sessions {
        Sessions(sessions)
    }
}
