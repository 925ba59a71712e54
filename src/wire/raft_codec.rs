//! Raft's entries and messages in bytes. Entries stand so on disk, too.

use super::DecodeError;
use super::codec::{Reader, Wire, put_bytes, put_list, take_bytes, take_list};
use crate::raft::{
    AppendResult, Body, Entry, EntryId, HardState, LogIndex, Membership, Message, Payload,
    SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SnapshotMeta, Term,
};

impl Wire for Membership {
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self.voters.iter(), out);
        put_list(self.learners.iter(), out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Membership, DecodeError> {
        let membership = Membership { voters: take_list(from)?, learners: take_list(from)? };
        match membership.voters.is_disjoint(&membership.learners) && !membership.voters.is_empty() {
            true => Ok(membership),
            false => Err(DecodeError::Invalid("membership")),
        }
    }
}

impl Wire for Payload {
    // The kinds stand on the wire and on disk: never renumber.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Payload::Empty => 0u8.put(out),
            Payload::Command(command) => {
                1u8.put(out);
                put_bytes(command, out);
            }
            Payload::Membership { membership, command } => {
                2u8.put(out);
                membership.put(out);
                put_bytes(command, out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Payload, DecodeError> {
        Ok(match u8::take(from)? {
            0 => Payload::Empty,
            1 => Payload::Command(take_bytes(from)?.to_vec()),
            2 => Payload::Membership {
                membership: Wire::take(from)?,
                command: take_bytes(from)?.to_vec(),
            },
            _ => return Err(DecodeError::Invalid("kind of entry")),
        })
    }
}

impl Wire for Entry {
    fn put(&self, out: &mut Vec<u8>) {
        self.id.put(out);
        self.payload.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Entry, DecodeError> {
        let id = EntryId::take(from)?;
        if id.index == LogIndex(0) || id.term == Term(0) {
            return Err(DecodeError::Invalid("name of an entry"));
        }
        Ok(Entry { id, payload: Wire::take(from)? })
    }
}

impl Wire for HardState {
    fn put(&self, out: &mut Vec<u8>) {
        self.term.put(out);
        self.vote.put(out);
        self.commit.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<HardState, DecodeError> {
        Ok(HardState {
            term: Wire::take(from)?,
            vote: Wire::take(from)?,
            commit: Wire::take(from)?,
        })
    }
}

impl Wire for SnapshotMeta {
    fn put(&self, out: &mut Vec<u8>) {
        self.last.put(out);
        self.membership.put(out);
        self.bytes.put(out);
        self.checksum.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<SnapshotMeta, DecodeError> {
        let last = EntryId::take(from)?;
        if last.index == LogIndex(0) || last.term == Term(0) {
            return Err(DecodeError::Invalid("name of an entry"));
        }
        let membership = Wire::take(from)?;
        let bytes = u64::take(from)?;
        if bytes == 0 || bytes > SNAPSHOT_BYTES_MAX {
            return Err(DecodeError::Invalid("size of a snapshot"));
        }
        Ok(SnapshotMeta { last, membership, bytes, checksum: Wire::take(from)? })
    }
}

impl Wire for AppendResult {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            AppendResult::Accepted { matched } => {
                1u8.put(out);
                matched.put(out);
            }
            AppendResult::Rejected { prev, hint } => {
                2u8.put(out);
                prev.put(out);
                hint.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<AppendResult, DecodeError> {
        match u8::take(from)? {
            1 => Ok(AppendResult::Accepted { matched: Wire::take(from)? }),
            2 => Ok(AppendResult::Rejected { prev: Wire::take(from)?, hint: Wire::take(from)? }),
            _ => Err(DecodeError::Invalid("append result")),
        }
    }
}

impl Wire for Message {
    // The kinds stand on the wire: never renumber.
    fn put(&self, out: &mut Vec<u8>) {
        self.term.put(out);
        match &self.body {
            Body::RequestVote { last, pre_vote, transfer } => {
                1u8.put(out);
                last.put(out);
                pre_vote.put(out);
                transfer.put(out);
            }
            Body::VoteAnswer { granted, pre_vote, lease_left_ms } => {
                2u8.put(out);
                granted.put(out);
                pre_vote.put(out);
                lease_left_ms.put(out);
            }
            Body::AppendEntries { prev, entries, commit, round } => {
                3u8.put(out);
                prev.put(out);
                put_list(entries.iter(), out);
                commit.put(out);
                round.put(out);
            }
            Body::AppendAnswer { round, promise_ms, result } => {
                4u8.put(out);
                round.put(out);
                promise_ms.put(out);
                result.put(out);
            }
            Body::Heartbeat { commit, round } => {
                5u8.put(out);
                commit.put(out);
                round.put(out);
            }
            Body::HeartbeatAnswer { round, promise_ms } => {
                6u8.put(out);
                round.put(out);
                promise_ms.put(out);
            }
            Body::TimeoutNow => 7u8.put(out),
            Body::ReadIndex { token } => {
                8u8.put(out);
                token.put(out);
            }
            Body::ReadIndexAnswer { token, index } => {
                9u8.put(out);
                token.put(out);
                index.put(out);
            }
            Body::InstallSnapshot { snapshot, offset, data, round } => {
                10u8.put(out);
                snapshot.put(out);
                offset.put(out);
                put_bytes(data, out);
                round.put(out);
            }
            Body::SnapshotAnswer { round, promise_ms, last, received } => {
                11u8.put(out);
                round.put(out);
                promise_ms.put(out);
                last.put(out);
                received.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Message, DecodeError> {
        let term = Wire::take(from)?;
        let body = match u8::take(from)? {
            1 => Body::RequestVote {
                last: Wire::take(from)?,
                pre_vote: Wire::take(from)?,
                transfer: Wire::take(from)?,
            },
            2 => Body::VoteAnswer {
                granted: Wire::take(from)?,
                pre_vote: Wire::take(from)?,
                lease_left_ms: Wire::take(from)?,
            },
            3 => {
                let prev: EntryId = Wire::take(from)?;
                let entries: Vec<Entry> = take_list(from)?;
                let expected = (1..).map(|n| prev.index.0.wrapping_add(n));
                if entries.iter().zip(expected).any(|(entry, index)| entry.id.index.0 != index) {
                    return Err(DecodeError::Invalid("order of entries"));
                }
                let (commit, round) = (Wire::take(from)?, Wire::take(from)?);
                Body::AppendEntries { prev, entries, commit, round }
            }
            4 => Body::AppendAnswer {
                round: Wire::take(from)?,
                promise_ms: Wire::take(from)?,
                result: Wire::take(from)?,
            },
            5 => Body::Heartbeat { commit: Wire::take(from)?, round: Wire::take(from)? },
            6 => Body::HeartbeatAnswer { round: Wire::take(from)?, promise_ms: Wire::take(from)? },
            7 => Body::TimeoutNow,
            8 => Body::ReadIndex { token: Wire::take(from)? },
            9 => Body::ReadIndexAnswer { token: Wire::take(from)?, index: Wire::take(from)? },
            10 => {
                let snapshot: SnapshotMeta = Wire::take(from)?;
                let (offset, data) = (u64::take(from)?, take_bytes(from)?);
                let within = snapshot.bytes.checked_sub(offset);
                if data.len() > SNAPSHOT_CHUNK_BYTES || within.is_none_or(|n| n < data.len() as u64)
                {
                    return Err(DecodeError::Invalid("piece of a snapshot"));
                }
                let data = data.to_vec();
                Body::InstallSnapshot { snapshot, offset, data, round: Wire::take(from)? }
            }
            11 => Body::SnapshotAnswer {
                round: Wire::take(from)?,
                promise_ms: Wire::take(from)?,
                last: Wire::take(from)?,
                received: Wire::take(from)?,
            },
            _ => return Err(DecodeError::Invalid("kind of message")),
        };
        Ok(Message { term, body })
    }
}
