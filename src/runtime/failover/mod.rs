//! Moving the primary's role: DESIGN section 10.
use crate::cluster::Address;
use crate::raft::NodeId;
use crate::wire::{Ask, Standing};

use super::consensus::Consensus;
use super::effects::Effects;

impl<E: Effects> Consensus<E> {
    pub(super) fn on_ask_standing(&mut self, _from: NodeId, _ask: Ask) {}
    pub(super) fn on_standing(&mut self, _from: NodeId, _ask: Ask, _standing: Standing) {}
    pub(super) fn on_own_standing(&mut self, _ask: Ask, _standing: Standing) {}
    pub(super) fn on_flushed(&mut self, _lsn: u64) {}
    pub(super) fn on_hindrance(&mut self, _what: String) {}
    pub(super) fn on_probed(&mut self, _address: &Address, _answers: bool) {}
}
