//! This server's physical replication slots, as they are.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::hand::slots::Slot;

/// All that are there. Somebody may make or drop one at this moment: who acts on it looks again.
pub(super) fn physical() -> Vec<Slot> {
    // SAFETY: the array has max_replication_slots places from the start to the end of the server,
    // each with a lock that guards what is read of it; nothing can raise while it is held. A name
    // is written before `in_use` is set, and is always ended by a zero.
    unsafe {
        let slots = (&raw mut (*pg_sys::ReplicationSlotCtl).replication_slots)
            .cast::<pg_sys::ReplicationSlot>();
        let count = usize::try_from(pg_sys::max_replication_slots).unwrap_or(0);
        let mut found = Vec::new();
        for n in 0..count {
            let slot = slots.add(n);
            pg_sys::SpinLockAcquire(&raw mut (*slot).mutex);
            let (in_use, active, data) = ((*slot).in_use, (*slot).active_pid != 0, (*slot).data);
            pg_sys::SpinLockRelease(&raw mut (*slot).mutex);
            if in_use && data.database == pg_sys::InvalidOid {
                let name = CStr::from_ptr(data.name.data.as_ptr());
                found.push(Slot {
                    name: name.to_string_lossy().into_owned(),
                    active,
                    reserved: data.restart_lsn != 0,
                    invalid: data.invalidated
                        != pg_sys::ReplicationSlotInvalidationCause::RS_INVAL_NONE,
                });
            }
        }
        found
    }
}
