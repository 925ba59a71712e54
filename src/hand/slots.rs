//! Which replication slots are to be made and dropped. Only those named `pgraft_` and a number are
//! ours; nobody else's is ever touched.

use std::collections::BTreeSet;

use crate::raft::NodeId;

use super::errand::Op;
use super::standby_name;

/// A physical slot as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether a process uses it.
    pub active: bool,
    /// Whether it holds WAL back.
    pub reserved: bool,
    /// Whether it was invalidated: nobody can use it any more.
    pub invalid: bool,
}

/// What a slot of ours is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Here is the primary, or will be in a moment: they hold what the standbys need.
    Hold,
    /// Here is a standby, which may become the primary: they are there, and hold nothing, as
    /// nobody would move them on.
    Wait,
}

/// The member whose slot has this name.
fn owner(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("pgraft_")?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // A number that no node has is nobody's member; it is ours all the same.
    plain.then(|| digits.parse().unwrap_or(0))
}

/// What is to be done so that each of `members` has its slot.
pub fn plan(found: &[Slot], members: &BTreeSet<NodeId>, what_for: Use) -> Vec<Op> {
    let mut ops = Vec::new();
    for slot in found.iter().filter(|slot| !slot.active) {
        let Some(owner) = owner(&slot.name) else { continue };
        let wanted = members.iter().any(|member| member.get() == owner)
            && slot.name == format!("pgraft_{owner}");
        let unfit = slot.invalid || (slot.reserved && what_for == Use::Wait);
        if !wanted || unfit {
            ops.push(Op::DropSlot { name: slot.name.clone() });
        }
    }
    for &member in members {
        let name = standby_name(member);
        let slot = found.iter().find(|slot| slot.name == name);
        let reserve = what_for == Use::Hold;
        match slot {
            // It holds WAL as soon as its standby says what it has.
            Some(slot) if slot.active => {}
            Some(slot) if !slot.invalid && slot.reserved == reserve => {}
            _ => ops.push(Op::MakeSlot { name, reserve }),
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().map(|&id| NodeId::new(id.into()).unwrap()).collect()
    }

    fn slot(name: &str) -> Slot {
        Slot { name: name.to_owned(), ..Slot::default() }
    }

    fn make(name: &str, reserve: bool) -> Op {
        Op::MakeSlot { name: name.to_owned(), reserve }
    }

    fn drop(name: &str) -> Op {
        Op::DropSlot { name: name.to_owned() }
    }

    #[test]
    fn each_member_gets_one() {
        let all = members(&[2, 3]);
        assert_eq!(plan(&[], &all, Use::Hold), [make("pgraft_2", true), make("pgraft_3", true)]);
        let found = [slot("pgraft_2")];
        assert_eq!(plan(&found, &all, Use::Wait), [make("pgraft_3", false)]);
        assert_eq!(plan(&found, &all, Use::Hold), [make("pgraft_2", true), make("pgraft_3", true)]);
    }

    #[test]
    fn nobody_elses_is_touched() {
        let found = ["pgraft_x", "pgraft_", "pgraft_2_old", "mine", "xpgraft_2"].map(slot);
        assert_eq!(plan(&found, &members(&[]), Use::Hold), []);
    }

    #[test]
    fn those_of_members_that_left_go_once_nobody_uses_them() {
        let found = [slot("pgraft_4"), slot("pgraft_99999999999"), slot("pgraft_02")];
        let all = members(&[2]);
        assert_eq!(
            plan(&found, &all, Use::Wait),
            [
                drop("pgraft_4"),
                drop("pgraft_99999999999"),
                drop("pgraft_02"),
                make("pgraft_2", false)
            ]
        );
        let used = [Slot { active: true, ..slot("pgraft_4") }];
        assert_eq!(plan(&used, &members(&[]), Use::Wait), []);
    }

    #[test]
    fn a_standby_holds_no_wal_back() {
        let held = Slot { reserved: true, ..slot("pgraft_2") };
        let all = members(&[2]);
        assert_eq!(
            plan(std::slice::from_ref(&held), &all, Use::Wait),
            [drop("pgraft_2"), make("pgraft_2", false)]
        );
        assert_eq!(plan(std::slice::from_ref(&held), &all, Use::Hold), []);
        let used = [Slot { active: true, ..held }];
        assert_eq!(plan(&used, &all, Use::Wait), []);
    }

    #[test]
    fn an_invalid_one_is_made_anew() {
        let found = [Slot { invalid: true, ..slot("pgraft_2") }];
        let all = members(&[2]);
        assert_eq!(plan(&found, &all, Use::Hold), [drop("pgraft_2"), make("pgraft_2", true)]);
    }
}
