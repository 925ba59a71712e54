//! What a `Node` is told once, when it is made. Time is in ticks; the caller says how long one is.

use super::errors::ConfigError;
use super::types::NodeId;

/// The longest election timeout in ticks: keeps every sum of timeouts far from overflow.
pub const ELECTION_TICKS_MAX: u32 = 1 << 20;
/// The longest tick: with `ELECTION_TICKS_MAX` of them, milliseconds still fit 32 bits.
pub const TICK_MS_MAX: u32 = 1000;
/// The most appends in flight to one follower: beyond it, more of them hide no more latency.
pub const INFLIGHT_MAX: usize = 4096;
/// The most voters and learners together: what the status page has room for.
pub const MEMBERS_MAX: usize = 32;

/// A node's identity, timeouts and limits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// How long a tick lasts; only what is said about leases is in milliseconds.
    pub tick_ms: u32,
    /// The shortest election timeout; each is drawn anew from this to twice this (Raft §5.2).
    pub election_timeout_ticks: u32,
    /// How often a leader shows itself.
    pub heartbeat_ticks: u32,
    /// The most payload bytes in one `AppendEntries`, and so in one entry.
    pub append_bytes_max: usize,
    /// The most appends on their way to one follower without an answer.
    pub inflight_max: usize,
    /// The most payload bytes that a leader holds uncommitted; beyond it proposals are refused.
    pub proposals_bytes_max: usize,
}

impl Config {
    /// Whether the values make sense together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.tick_ms == 0 || self.tick_ms > TICK_MS_MAX {
            return Err(ConfigError::TickOutOfRange { tick_ms: self.tick_ms });
        }
        if self.heartbeat_ticks == 0 {
            return Err(ConfigError::HeartbeatZero);
        }
        if self.election_timeout_ticks <= self.heartbeat_ticks {
            return Err(ConfigError::ElectionTooShort {
                election: self.election_timeout_ticks,
                heartbeat: self.heartbeat_ticks,
            });
        }
        if self.election_timeout_ticks > ELECTION_TICKS_MAX {
            return Err(ConfigError::ElectionTooLong { election: self.election_timeout_ticks });
        }
        if self.append_bytes_max == 0 {
            return Err(ConfigError::AppendBytesZero);
        }
        if self.inflight_max == 0 || self.inflight_max > INFLIGHT_MAX {
            return Err(ConfigError::InflightOutOfRange { inflight: self.inflight_max });
        }
        if self.proposals_bytes_max < self.append_bytes_max {
            return Err(ConfigError::ProposalsTooSmall {
                proposals: self.proposals_bytes_max,
                append: self.append_bytes_max,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_senseless_value_is_refused_in_words() {
        let good = Config {
            id: NodeId::new(1).unwrap(),
            tick_ms: 20,
            election_timeout_ticks: 50,
            heartbeat_ticks: 5,
            append_bytes_max: 1024,
            inflight_max: 16,
            proposals_bytes_max: 4096,
        };
        assert_eq!(good.validate(), Ok(()));
        type Spoil = fn(&mut Config);
        let spoils: [Spoil; 7] = [
            |c| c.tick_ms = 0,
            |c| c.heartbeat_ticks = 0,
            |c| c.election_timeout_ticks = 5,
            |c| c.election_timeout_ticks = ELECTION_TICKS_MAX + 1,
            |c| c.append_bytes_max = 0,
            |c| c.inflight_max = INFLIGHT_MAX + 1,
            |c| c.proposals_bytes_max = 1,
        ];
        for spoil in spoils {
            let mut config = good.clone();
            spoil(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.to_string().contains("must"), "{error}");
        }
    }
}
