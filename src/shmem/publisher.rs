//! The pages that this node publishes: one in PostgreSQL's shared memory and, if a key is set, one
//! in a SysV segment. Used by the consensus thread; by the worker's main thread while that is not
//! running.

use super::{Core, Fence, StatusPage, SysvPage, View};

/// Publishes to both alike.
#[derive(Debug)]
pub struct Pages {
    /// The page that backends read.
    pub in_postgres: &'static StatusPage,
    /// The one for programs outside; `None`: no key is set, or it could not be had.
    pub sysv: Option<SysvPage>,
}

impl Pages {
    /// A worker begins (`StatusPage::open`), on both.
    pub fn open(&self, worker_pid: i32, stale_after_ns: u64) {
        self.each(|page| page.open(worker_pid, stale_after_ns));
    }

    /// Changes how old a heartbeat may be, on both.
    pub fn set_stale_after(&self, stale_after_ns: u64) {
        self.each(|page| page.set_stale_after(stale_after_ns));
    }

    /// Publishes everything, and copies to the outside page what is counted on the inner one.
    pub fn publish(&self, view: &View) {
        self.each(|page| page.publish(view));
        if let Some(sysv) = &self.sysv {
            sysv.page().copy_loose_values(self.in_postgres);
        }
    }

    /// Publishes what changes most often (`StatusPage::publish_core`).
    pub fn publish_core(&self, core: &Core) {
        self.each(|page| page.publish_core(core));
    }

    /// Publishes the fence and who is primary (`StatusPage::publish_fence`).
    pub fn publish_fence(&self, fence: &Fence, primary_id: u32) {
        self.each(|page| page.publish_fence(fence, primary_id));
    }

    /// The consensus thread is alive.
    pub fn beat(&self, now_ns: u64) {
        self.each(|page| page.beat(now_ns));
    }

    /// The worker ends: neither page holds any longer.
    pub fn clear(&self) {
        self.each(StatusPage::clear);
    }

    fn each(&self, act: impl Fn(&StatusPage)) {
        act(self.in_postgres);
        if let Some(sysv) = &self.sysv {
            act(sysv.page());
        }
    }
}
