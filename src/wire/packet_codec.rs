//! The handshake and the packets after it, in bytes.

use super::DecodeError;
use super::codec::{Reader, Wire, put_list, take_list, take_name};
use super::packet::{
    Ask, Hello, HelloAnswer, PROTOCOL_NEWEST, PROTOCOL_OLDEST, Packet, PgRole, Refusal, Report,
    Standing,
};

/// What a first frame begins with.
const MAGIC: [u8; 8] = *b"PGRAFT\0\x01";

impl Wire for Hello {
    /// Magic and versions stand first, so that a node of any later version can still be told which
    /// versions there are. A later version may only append to the rest: a node that speaks this
    /// one, too, is understood as far as this one goes.
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        self.oldest.put(out);
        self.newest.put(out);
        self.cluster_id.put(out);
        self.cluster.put(out);
        self.members_at.put(out);
        self.node.put(out);
        self.directory.put(out);
        self.name.put(out);
        self.raft_address.put(out);
        self.raft_port.put(out);
        self.pg_port.put(out);
        self.system_identifier.put(out);
        self.dialled.put(out);
        self.auth_method.put(out);
        out.extend_from_slice(&self.challenge);
    }
    fn take(from: &mut Reader<'_>) -> Result<Hello, DecodeError> {
        let magic: [u8; 8] = from.array().map_err(|_| DecodeError::NotPgraft)?;
        if magic != MAGIC {
            return Err(DecodeError::NotPgraft);
        }
        let (oldest, newest) = (u16::take(from)?, u16::take(from)?);
        if oldest > PROTOCOL_NEWEST || newest < PROTOCOL_OLDEST {
            return Err(DecodeError::Version { oldest, newest });
        }
        let hello = Hello {
            oldest,
            newest,
            cluster_id: take_name(from)?,
            cluster: Wire::take(from)?,
            members_at: Wire::take(from)?,
            node: Wire::take(from)?,
            directory: Wire::take(from)?,
            name: take_name(from)?,
            raft_address: Wire::take(from)?,
            raft_port: Wire::take(from)?,
            pg_port: Wire::take(from)?,
            system_identifier: Wire::take(from)?,
            dialled: Wire::take(from)?,
            auth_method: Wire::take(from)?,
            challenge: from.array()?,
        };
        if newest > PROTOCOL_NEWEST {
            from.rest();
        }
        Ok(hello)
    }
}

impl Wire for Refusal {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn take(from: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
        const REFUSALS: [Refusal; 9] = [
            Refusal::Version,
            Refusal::ClusterId,
            Refusal::ClusterUuid,
            Refusal::DuplicateNode,
            Refusal::WrongDirectory,
            Refusal::Removed,
            Refusal::Full,
            Refusal::Oneself,
            Refusal::Auth,
        ];
        let code = u8::take(from)?;
        let refusal = REFUSALS.into_iter().find(|refusal| *refusal as u8 == code);
        refusal.ok_or(DecodeError::Invalid("kind of refusal"))
    }
}

impl Wire for HelloAnswer {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            HelloAnswer::Accepted(hello) => {
                true.put(out);
                hello.put(out);
            }
            HelloAnswer::Refused(refusal) => {
                false.put(out);
                refusal.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<HelloAnswer, DecodeError> {
        match bool::take(from)? {
            true => Hello::take(from).map(HelloAnswer::Accepted),
            false => Refusal::take(from).map(HelloAnswer::Refused),
        }
    }
}

impl Wire for PgRole {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn take(from: &mut Reader<'_>) -> Result<PgRole, DecodeError> {
        match u8::take(from)? {
            1 => Ok(PgRole::Primary),
            2 => Ok(PgRole::Standby),
            _ => Err(DecodeError::Invalid("role of a server")),
        }
    }
}

impl Wire for Report {
    fn put(&self, out: &mut Vec<u8>) {
        self.pg_role.put(out);
        self.wal_lsn.put(out);
        self.timeline.put(out);
        self.fork.put(out);
        self.receiving.put(out);
        self.stopping.put(out);
        self.names_at.put(out);
        self.synchronous_at.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Report, DecodeError> {
        Ok(Report {
            pg_role: Wire::take(from)?,
            wal_lsn: Wire::take(from)?,
            timeline: Wire::take(from)?,
            fork: Wire::take(from)?,
            receiving: Wire::take(from)?,
            stopping: Wire::take(from)?,
            names_at: Wire::take(from)?,
            synchronous_at: Wire::take(from)?,
        })
    }
}

impl Wire for Ask {
    fn put(&self, out: &mut Vec<u8>) {
        self.term.put(out);
        self.round.put(out);
        self.epoch.put(out);
        self.freeze.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Ask, DecodeError> {
        Ok(Ask {
            term: Wire::take(from)?,
            round: Wire::take(from)?,
            epoch: Wire::take(from)?,
            freeze: Wire::take(from)?,
        })
    }
}

impl Wire for Standing {
    fn put(&self, out: &mut Vec<u8>) {
        self.pg_role.put(out);
        self.position.put(out);
        self.system_identifier.put(out);
        self.receiving.put(out);
        self.frozen.put(out);
        self.obstacle.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Standing, DecodeError> {
        Ok(Standing {
            pg_role: Wire::take(from)?,
            position: Wire::take(from)?,
            system_identifier: Wire::take(from)?,
            receiving: Wire::take(from)?,
            frozen: Wire::take(from)?,
            obstacle: take_name(from)?,
        })
    }
}

impl Wire for Packet {
    // The kinds stand on the wire: never renumber.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Packet::Raft(message) => {
                1u8.put(out);
                message.put(out);
            }
            Packet::Report(report) => {
                2u8.put(out);
                report.put(out);
            }
            Packet::Forward { request_id, request } => {
                3u8.put(out);
                request_id.put(out);
                request.put(out);
            }
            Packet::Answer { request_id, index, answer } => {
                4u8.put(out);
                request_id.put(out);
                index.put(out);
                answer.put(out);
            }
            Packet::Forming { nodes, complete, cluster } => {
                5u8.put(out);
                put_list(nodes.iter(), out);
                complete.put(out);
                cluster.put(out);
            }
            Packet::Genesis(entry) => {
                6u8.put(out);
                entry.put(out);
            }
            Packet::AskStanding(ask) => {
                7u8.put(out);
                ask.put(out);
            }
            Packet::Standing { ask, standing } => {
                8u8.put(out);
                ask.put(out);
                standing.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Packet, DecodeError> {
        Ok(match u8::take(from)? {
            1 => Packet::Raft(Wire::take(from)?),
            2 => Packet::Report(Wire::take(from)?),
            3 => Packet::Forward { request_id: Wire::take(from)?, request: Wire::take(from)? },
            4 => Packet::Answer {
                request_id: Wire::take(from)?,
                index: Wire::take(from)?,
                answer: Wire::take(from)?,
            },
            5 => Packet::Forming {
                nodes: take_list(from)?,
                complete: Wire::take(from)?,
                cluster: Wire::take(from)?,
            },
            6 => Packet::Genesis(Wire::take(from)?),
            7 => Packet::AskStanding(Wire::take(from)?),
            8 => Packet::Standing { ask: Wire::take(from)?, standing: Wire::take(from)? },
            _ => return Err(DecodeError::Invalid("kind of packet")),
        })
    }
}
