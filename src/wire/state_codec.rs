//! The state machine in bytes: what a snapshot holds. One state has one encoding only, so that
//! every node's snapshot at an index is the same and any of them can go on with a transfer.

use std::collections::{BTreeMap, BTreeSet};

use super::DecodeError;
use super::codec::{Reader, Wire, put_list, take_list};
use super::store_codec::{put_map, take_key, take_map};
use crate::cluster::{
    ClusterState, Item, Member, Session, Sessions, Store, TIMELINES_MAX, Timeline,
};
use crate::raft::{NodeId, SNAPSHOT_BYTES_MAX};

/// The first byte: which encoding follows. Never reuse a number, it stands on disks.
const STATE_FORMAT: u8 = 2;

/// All of `state` in bytes. They hold no order but the keys'.
pub fn encode_state(state: &ClusterState) -> Vec<u8> {
    // The store is nearly all of it, and what is counted for it is more than what it takes.
    let mut out = Vec::with_capacity(state.store.bytes() as usize + 4096);
    out.push(STATE_FORMAT);
    state.put(&mut out);
    out
}

/// The state that [`encode_state`] wrote, and nothing after it. What no node could have written is
/// refused; nothing is allocated that the bytes do not pay for.
pub fn decode_state(bytes: &[u8]) -> Result<ClusterState, DecodeError> {
    if bytes.len() as u64 > SNAPSHOT_BYTES_MAX {
        return Err(DecodeError::Invalid("size of a snapshot"));
    }
    let mut reader = Reader::new(bytes);
    if u8::take(&mut reader)? != STATE_FORMAT {
        return Err(DecodeError::Invalid("format of a snapshot"));
    }
    let state = ClusterState::take(&mut reader)?;
    reader.end()?;
    Ok(state)
}

impl Wire for ClusterState {
    fn put(&self, out: &mut Vec<u8>) {
        self.applied.put(out);
        self.uuid.put(out);
        put_list(self.members.values(), out);
        put_list(self.removed.iter(), out);
        self.primary.put(out);
        put_map(self.timelines.iter(), out);
        self.paused.put(out);
        self.synchronous.put(out);
        put_map(self.store.items(), out);
        put_map(self.sessions.iter(), out);
    }
    fn take(from: &mut Reader<'_>) -> Result<ClusterState, DecodeError> {
        let (applied, uuid) = (Wire::take(from)?, Wire::take(from)?);
        let members: Vec<Member> = take_list(from)?;
        let removed: Vec<NodeId> = take_list(from)?;
        let ascend = members.is_sorted_by(|a, b| a.id < b.id) && removed.is_sorted_by(|a, b| a < b);
        if !ascend {
            return Err(DecodeError::Invalid("order in a snapshot"));
        }
        let primary = Wire::take(from)?;
        let timelines: BTreeMap<u32, Timeline> = take_map(from, Wire::take)?;
        if timelines.len() > TIMELINES_MAX {
            return Err(DecodeError::Invalid("timelines in a snapshot"));
        }
        let (paused, synchronous) = (Wire::take(from)?, Wire::take(from)?);
        let members: BTreeMap<NodeId, Member> =
            members.into_iter().map(|member| (member.id, member)).collect();
        let removed: BTreeSet<NodeId> = removed.into_iter().collect();
        if members.keys().any(|node| removed.contains(node)) {
            return Err(DecodeError::Invalid("members in a snapshot"));
        }
        let store = Store::from(take_map::<String, Item>(from, take_key)?);
        let sessions = Sessions::from(take_map::<NodeId, Session>(from, Wire::take)?);
        Ok(ClusterState {
            uuid,
            members,
            removed,
            primary,
            timelines,
            paused,
            synchronous,
            store,
            sessions,
            applied,
        })
    }
}
