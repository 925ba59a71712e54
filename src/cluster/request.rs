//! What a user may ask of the cluster, and what comes back. Plain values: they travel through the
//! command slots of shared memory and, forwarded, over the wire.

use super::{Address, Change, Item, RequestId};
use crate::raft::NodeId;

/// A change asked for by SQL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// `pgraft_init()`; of this node only.
    Init,
    /// `pgraft_start()`; of this node only.
    Start,
    /// `pgraft_stop()`; of this node only.
    Stop,
    /// `pgraft_set_debug(enabled)`; of this node only.
    SetDebug {
        /// On or off.
        enabled: bool,
    },
    /// `pgraft_force_election()`; of the node it is called on.
    ForceElection,
    /// `pgraft_add_node(address, node_id)`; the leader carries it out.
    AddNode {
        /// The new node.
        node: NodeId,
        /// Where it listens.
        address: Address,
    },
    /// `pgraft_remove_node(node_id, force)`; the leader carries it out.
    RemoveNode {
        /// The node to remove.
        node: NodeId,
        /// Even if the voters left may be no quorum.
        force: bool,
    },
    /// `pgraft_transfer_leadership(node_id)`; the leader carries it out.
    TransferLeadership {
        /// The next leader.
        node: NodeId,
    },
    /// `pgraft_pause()` and `pgraft_resume()`; the leader proposes it.
    SetPaused {
        /// On or off.
        paused: bool,
    },
    /// `pgraft_kv_put`, `_delete`, `_cas`; the leader proposes it.
    Store {
        /// Names it for ever; the node whose backend asks fills it in.
        id: Option<RequestId>,
        /// What shall be done.
        change: Change,
    },
    /// `pgraft_kv_get`, `_exists`; answered by the node it is called on, as all reads.
    Get {
        /// Which key.
        key: String,
        /// Whether everything must be seen that was committed before the question; if not, the
        /// answer is what this node has applied.
        consistent: bool,
    },
    /// `pgraft_kv_list_keys`.
    Keys {
        /// What they begin with; empty for all.
        prefix: String,
        /// As in `Get`.
        consistent: bool,
    },
    /// `pgraft_kv`: everything.
    Items {
        /// As in `Get`.
        consistent: bool,
    },
}

/// The outcome of a request. `Err` means that nothing changed, unless its kind says otherwise.
pub type Answer = Result<Done, Failure>;

/// A request carried out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// What the SQL function returns: of a put true, of a delete whether the key existed, of a cas
    /// whether it was done.
    pub value: bool,
    /// What a read found.
    pub found: Found,
    /// Raised as a NOTICE when not empty.
    pub notice: String,
    /// Raised as a WARNING when not empty.
    pub warning: String,
}

/// What a read of the store found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Found {
    /// It was no read.
    #[default]
    Nothing,
    /// Of `Request::Get`; `None`: there is no such key.
    Value(Option<String>),
    /// Of `Request::Keys`, in the order of their bytes.
    Keys(Vec<String>),
    /// Of `Request::Items`, in the order of the keys' bytes.
    Items(Vec<(String, Item)>),
}

/// A request refused, in PostgreSQL's message style.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which SQLSTATE it becomes.
    pub kind: FailureKind,
    /// The primary message: lower case, no full stop.
    pub message: String,
    /// DETAIL, a sentence, or empty.
    pub detail: String,
    /// HINT, a sentence, or empty.
    pub hint: String,
}

/// What went wrong; `pg/report.rs` knows the SQLSTATE of each. Never renumber: on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FailureKind {
    /// 22023: a value that can never work.
    InvalidValue = 1,
    /// 55000: not in this state (not started, not a member, not the leader, …).
    WrongState = 2,
    /// 42710: the node id is taken.
    Duplicate = 3,
    /// 57P03: no leader or no quorum within the time allowed; nothing was changed.
    Unavailable = 4,
    /// 40003: leadership was lost or the time ran out on the way; it may yet take effect.
    OutcomeUnknown = 5,
    /// F0000: pgraft.conf has an error.
    Config = 6,
    /// 58030: a file or directory could not be read or written.
    Io = 7,
    /// 53000: too many requests at once.
    Busy = 8,
    /// XX001: stored data is damaged.
    Corrupt = 9,
    /// 53400: the store would grow beyond its limit; nothing was changed.
    StoreFull = 10,
}
