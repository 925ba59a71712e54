//! Whether this server's backends may commit, as the page shows it.

use crate::bugs::{self, Bug};
use crate::shmem::{Fence, FenceMode};
use crate::wire::PgRole;

use crate::runtime::consensus::Consensus;
use crate::runtime::effects::Effects;

fn mode(mode: FenceMode) -> Fence {
    Fence { mode, ..Fence::default() }
}

impl<E: Effects> Consensus<E> {
    /// Publishes the fence if it changed. Before anything is said that relies on its being closed.
    pub(in crate::runtime) fn show_fence(&mut self) {
        let Some(fence) = self.fence() else { return };
        let primary = self.cluster.primary.map_or(0, |primary| primary.node.get());
        if fence.mode == FenceMode::Open {
            self.failover.opened = Some((self.node.term(), self.cluster.epoch()));
        }
        let shown = Some((fence, primary));
        if shown != self.failover.shown {
            self.changed |=
                self.failover.shown.map(|(f, p)| (f.mode, p)) != Some((fence.mode, primary));
            self.failover.shown = shown;
            self.fx.publish_fence(&fence, primary);
        }
    }

    /// Whether commits pass now, or will when the former lease is over.
    pub(super) fn is_fence_open(&self) -> bool {
        self.failover.shown.is_some_and(|(fence, _)| fence.mode == FenceMode::Open)
    }

    /// What the fence is to be; `None`: as it is, since this node knows of no cluster. The page
    /// of a server that takes part in one starts closed.
    fn fence(&self) -> Option<Fence> {
        if !self.config.integration_enabled {
            return Some(mode(FenceMode::Off));
        }
        if self.failed.is_some() {
            return Some(mode(FenceMode::Paused));
        }
        if self.removed {
            return Some(mode(FenceMode::Closed));
        }
        if !self.is_confirmed() || self.node.membership().voters.is_empty() {
            return None;
        }
        let me = self.identity.node;
        let voters = &self.node.membership().voters;
        // Nobody else can be elected, so nobody else can be primary.
        let alone = voters.len() == 1 && voters.contains(&me);
        Some(match self.cluster.primary {
            Some(primary) if primary.node != me => mode(FenceMode::Closed),
            _ if alone => mode(FenceMode::Off),
            None => mode(FenceMode::Paused),
            // It lets go of its lease, and not by a planned move, which waits for commits.
            Some(_) if self.node.transferring().is_some() => mode(FenceMode::Closed),
            Some(_) => self.window().unwrap_or(mode(FenceMode::Paused)),
        })
    }

    /// Of the primary by the log's word: the lease, if all else is in order.
    fn window(&self) -> Option<Fence> {
        let (from_ns, until_ns) = match self.lease.window() {
            (from_ns, until_ns) if bugs::on(Bug::FenceBeforeFormerLease) => {
                (from_ns.min(self.fx.now_ns()), until_ns)
            }
            (from_ns, _) if bugs::on(Bug::FenceWithoutLease) => {
                (from_ns, self.fx.now_ns() + 1_000_000_000)
            }
            window => window,
        };
        let epoch = (self.node.term(), self.cluster.epoch());
        // The membership may change under an open fence: one step of it is harmless.
        let waits_for_majority = !self.cluster.synchronous
            || self.report.names_at == self.failover.members_at
            || self.failover.opened == Some(epoch)
            || bugs::on(Bug::FenceWithoutNames);
        let moving = self.failover.lead.moving.is_some() && !bugs::on(Bug::FenceWhileMoving);
        let open = self.leads_knowingly()
            && self.node.transferring().is_none()
            && !moving
            && self.report.pg_role == Some(PgRole::Primary)
            && waits_for_majority
            && until_ns != 0;
        open.then_some(Fence { mode: FenceMode::Open, from_ns, until_ns })
    }
}
