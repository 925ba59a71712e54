//! Members, commands, requests and answers in bytes. Commands stand so in the log.

use super::DecodeError;
use super::codec::{Reader, Wire, put_list, take_list, take_name};
use super::store_codec::{take_key, take_prefix};
use crate::cluster::{
    Answer, Command, Done, Failure, FailureKind, Member, Position, Primary, Request, SWITCHES_MAX,
    Switch, Timeline,
};

impl Wire for Member {
    fn put(&self, out: &mut Vec<u8>) {
        self.id.put(out);
        self.name.put(out);
        self.raft_address.put(out);
        self.pg_address.put(out);
        self.directory.put(out);
        self.system_identifier.put(out);
        self.voter.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Member, DecodeError> {
        Ok(Member {
            id: Wire::take(from)?,
            name: take_name(from)?,
            raft_address: Wire::take(from)?,
            pg_address: Wire::take(from)?,
            directory: Wire::take(from)?,
            system_identifier: Wire::take(from)?,
            voter: Wire::take(from)?,
        })
    }
}

impl Wire for Primary {
    fn put(&self, out: &mut Vec<u8>) {
        self.node.put(out);
        self.epoch.put(out);
        self.timeline.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Primary, DecodeError> {
        let (node, epoch, timeline) = (Wire::take(from)?, u64::take(from)?, Wire::take(from)?);
        // Shown as SQL's bigint, and counted on.
        if epoch == 0 || epoch > i64::MAX as u64 {
            return Err(DecodeError::Invalid("epoch"));
        }
        Ok(Primary { node, epoch, timeline })
    }
}

impl Wire for Switch {
    fn put(&self, out: &mut Vec<u8>) {
        self.timeline.put(out);
        self.ends.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Switch, DecodeError> {
        Ok(Switch { timeline: Wire::take(from)?, ends: Wire::take(from)? })
    }
}

impl Wire for Timeline {
    fn put(&self, out: &mut Vec<u8>) {
        self.epoch.put(out);
        self.fork.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Timeline, DecodeError> {
        Ok(Timeline { epoch: Wire::take(from)?, fork: Wire::take(from)? })
    }
}

impl Wire for Position {
    fn put(&self, out: &mut Vec<u8>) {
        self.timeline.put(out);
        self.lsn.put(out);
        put_list(self.history.iter(), out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Position, DecodeError> {
        let (timeline, lsn) = (Wire::take(from)?, Wire::take(from)?);
        let history: Vec<Switch> = take_list(from)?;
        if history.len() > SWITCHES_MAX {
            return Err(DecodeError::Invalid("history of a timeline"));
        }
        Ok(Position { timeline, lsn, history })
    }
}

impl Wire for Command {
    // The kinds stand in the log: never renumber.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Command::Genesis { cluster, members } => {
                1u8.put(out);
                cluster.put(out);
                put_list(members.iter(), out);
            }
            Command::AddLearner { member } => {
                2u8.put(out);
                member.put(out);
            }
            Command::Promote { node } => {
                3u8.put(out);
                node.put(out);
            }
            Command::Remove { node } => {
                4u8.put(out);
                node.put(out);
            }
            Command::Update { member } => {
                5u8.put(out);
                member.put(out);
            }
            Command::Store { id, change } => {
                6u8.put(out);
                id.put(out);
                change.put(out);
            }
            Command::SetPrimary { primary } => {
                7u8.put(out);
                primary.put(out);
            }
            Command::SetPaused { paused } => {
                8u8.put(out);
                paused.put(out);
            }
            Command::SetSynchronous { synchronous } => {
                9u8.put(out);
                synchronous.put(out);
            }
            Command::SetFork { timeline, fork } => {
                10u8.put(out);
                timeline.put(out);
                fork.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Command, DecodeError> {
        Ok(match u8::take(from)? {
            1 => Command::Genesis { cluster: Wire::take(from)?, members: take_list(from)? },
            2 => Command::AddLearner { member: Wire::take(from)? },
            3 => Command::Promote { node: Wire::take(from)? },
            4 => Command::Remove { node: Wire::take(from)? },
            5 => Command::Update { member: Wire::take(from)? },
            6 => Command::Store { id: Wire::take(from)?, change: Wire::take(from)? },
            7 => Command::SetPrimary { primary: Wire::take(from)? },
            8 => Command::SetPaused { paused: Wire::take(from)? },
            9 => Command::SetSynchronous { synchronous: Wire::take(from)? },
            10 => Command::SetFork { timeline: Wire::take(from)?, fork: Wire::take(from)? },
            _ => return Err(DecodeError::Invalid("kind of command")),
        })
    }
}

impl Wire for Request {
    // The kinds stand on the wire: never renumber.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Request::Init => 1u8.put(out),
            Request::Start => 2u8.put(out),
            Request::Stop => 3u8.put(out),
            Request::SetDebug { enabled } => {
                4u8.put(out);
                enabled.put(out);
            }
            Request::ForceElection => 5u8.put(out),
            Request::AddNode { node, address } => {
                6u8.put(out);
                node.put(out);
                address.put(out);
            }
            Request::RemoveNode { node, force } => {
                7u8.put(out);
                node.put(out);
                force.put(out);
            }
            Request::TransferLeadership { node } => {
                8u8.put(out);
                node.put(out);
            }
            Request::Store { id, change } => {
                9u8.put(out);
                id.put(out);
                change.put(out);
            }
            Request::Get { key, consistent } => {
                10u8.put(out);
                key.put(out);
                consistent.put(out);
            }
            Request::Keys { prefix, consistent } => {
                11u8.put(out);
                prefix.put(out);
                consistent.put(out);
            }
            Request::Items { consistent } => {
                12u8.put(out);
                consistent.put(out);
            }
            Request::SetPaused { paused } => {
                13u8.put(out);
                paused.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Request, DecodeError> {
        Ok(match u8::take(from)? {
            1 => Request::Init,
            2 => Request::Start,
            3 => Request::Stop,
            4 => Request::SetDebug { enabled: Wire::take(from)? },
            5 => Request::ForceElection,
            6 => Request::AddNode { node: Wire::take(from)?, address: Wire::take(from)? },
            7 => Request::RemoveNode { node: Wire::take(from)?, force: Wire::take(from)? },
            8 => Request::TransferLeadership { node: Wire::take(from)? },
            9 => Request::Store { id: Wire::take(from)?, change: Wire::take(from)? },
            10 => Request::Get { key: take_key(from)?, consistent: Wire::take(from)? },
            11 => Request::Keys { prefix: take_prefix(from)?, consistent: Wire::take(from)? },
            12 => Request::Items { consistent: Wire::take(from)? },
            13 => Request::SetPaused { paused: Wire::take(from)? },
            _ => return Err(DecodeError::Invalid("kind of request")),
        })
    }
}

impl Wire for FailureKind {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn take(from: &mut Reader<'_>) -> Result<FailureKind, DecodeError> {
        const KINDS: [FailureKind; 10] = [
            FailureKind::InvalidValue,
            FailureKind::WrongState,
            FailureKind::Duplicate,
            FailureKind::Unavailable,
            FailureKind::OutcomeUnknown,
            FailureKind::Config,
            FailureKind::Io,
            FailureKind::Busy,
            FailureKind::Corrupt,
            FailureKind::StoreFull,
        ];
        let code = u8::take(from)?;
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == code);
        kind.ok_or(DecodeError::Invalid("kind of failure"))
    }
}

impl Wire for Answer {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_ok().put(out);
        match self {
            Ok(Done { value, found, notice, warning }) => {
                value.put(out);
                found.put(out);
                notice.put(out);
                warning.put(out);
            }
            Err(Failure { kind, message, detail, hint }) => {
                kind.put(out);
                message.put(out);
                detail.put(out);
                hint.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Answer, DecodeError> {
        Ok(match bool::take(from)? {
            true => Ok(Done {
                value: Wire::take(from)?,
                found: Wire::take(from)?,
                notice: Wire::take(from)?,
                warning: Wire::take(from)?,
            }),
            false => Err(Failure {
                kind: Wire::take(from)?,
                message: Wire::take(from)?,
                detail: Wire::take(from)?,
                hint: Wire::take(from)?,
            }),
        })
    }
}
