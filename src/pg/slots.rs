//! The replication slots that there are, and who streams: looked at in shared memory, without a lock
//! that a catalog would need. What was seen may be over a moment later; the errand that follows
//! looks again.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::hand::slots::Slot;

/// Every physical slot.
pub(super) fn all() -> Vec<Slot> {
    let mut found = Vec::new();
    // SAFETY: the array is in shared memory from before the first fork and has
    // `max_replication_slots` places; the fields read are words, and a name that is just being
    // written ends in zero all the same, as its last byte is never anything else.
    unsafe {
        let control = pg_sys::ReplicationSlotCtl;
        if control.is_null() {
            return found;
        }
        let slots = (*control).replication_slots.as_ptr();
        for index in 0..pg_sys::max_replication_slots.max(0) as usize {
            let slot = &*slots.add(index);
            if !slot.in_use || slot.data.database != pg_sys::InvalidOid {
                continue;
            }
            let name = CStr::from_ptr(slot.data.name.data.as_ptr());
            let none = pg_sys::ReplicationSlotInvalidationCause::RS_INVAL_NONE;
            found.push(Slot {
                name: name.to_string_lossy().into_owned(),
                active: slot.active_pid != 0,
                reserved: slot.data.restart_lsn != 0,
                invalid: slot.data.invalidated != none,
            });
        }
    }
    found
}

/// How many standbys that commits wait for have flushed up to `lsn`.
pub(super) fn confirmed(lsn: u64) -> u32 {
    // SAFETY: as above, with `max_wal_senders` places; single words of a struct that others write.
    unsafe {
        let control = pg_sys::WalSndCtl;
        if control.is_null() {
            return 0;
        }
        let senders = (*control).walsnds.as_ptr();
        let senders = (0..pg_sys::max_wal_senders.max(0) as usize).map(|at| &*senders.add(at));
        let streams = pg_sys::WalSndState::WALSNDSTATE_STREAMING;
        let counts = |sender: &&pg_sys::WalSnd| {
            sender.pid != 0
                && sender.state == streams
                && sender.sync_standby_priority > 0
                && sender.flush >= lsn
        };
        senders.filter(counts).count() as u32
    }
}
