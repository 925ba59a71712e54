//! What outlives consensus on a member: the marker in the data directory, and a fence that is not
//! open. The consensus thread opens and closes the fence while it runs; here is what is done to it
//! while it does not.

use crate::config::Config;
use crate::pg::fence::Marker;
use crate::shmem::{Fence, FenceMode, NodeState};
use crate::storage::Identity;

use super::Worker;

impl Worker {
    /// pgraft.conf was read while nothing runs: without the integration there is no fence.
    pub(super) fn lift_fence_if_unwanted(&mut self, config: &Config) {
        if config.integration_enabled {
            return;
        }
        let removed = Marker::of_server().remove().unwrap_or_else(|error| {
            log::warn!("{error}; the fence is closed again when the server restarts");
            false
        });
        let page = self.shared.page();
        if removed || page.fence().mode != FenceMode::Off {
            log::info!("postgresql_integration_enabled is false: every commit may go on");
            page.publish_fence(&Fence::default(), 0);
        }
    }

    /// Consensus is about to start: a member commits nothing before it says so.
    pub(super) fn close_fence_of_member(&mut self, config: &Config, identity: &Identity) {
        self.marked = !config.integration_enabled;
        if self.marked || identity.cluster.is_none() {
            return;
        }
        self.mark(config);
        let page = self.shared.page();
        if page.fence().mode == FenceMode::Off {
            let paused = Fence { mode: FenceMode::Paused, ..Fence::default() };
            page.publish_fence(&paused, page.primary_id());
        }
    }

    /// Looks whether this node has become a member, until it is marked as one.
    pub(super) fn mark_new_member(&mut self) {
        if self.marked || self.runtime.is_none() {
            return;
        }
        let state = self.shared.page().core().map(|core| core.state);
        if let (Some(NodeState::Member), Some(config)) = (state, self.config.clone()) {
            self.mark(&config);
        }
    }

    fn mark(&mut self, config: &Config) {
        // Tried once: at the next start raft_data_dir tells, too.
        self.marked = true;
        if let Err(error) = Marker::of_server().write(config) {
            log::warn!("{error}; the server's data directory is not marked as a member's");
        }
    }
}
