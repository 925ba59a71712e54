//! `pgraft_get_nodes()`: the applied membership as this node sees it.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern};

use crate::pg::shared;
use crate::shmem::{MemberView, View};
use crate::sys;
use crate::wire::PgRole;

use super::types::{Lsn, timestamp};

#[pg_extern]
#[allow(clippy::type_complexity, reason = "pgrx wants the columns spelt out in the signature")]
fn pgraft_get_nodes() -> TableIterator<
    'static,
    (
        name!(node_id, i32),
        name!(address, String),
        name!(port, i32),
        name!(is_leader, bool),
        name!(name, Option<String>),
        name!(voter, bool),
        name!(is_self, bool),
        name!(reachable, Option<bool>),
        name!(last_contact, Option<TimestampWithTimeZone>),
        name!(match_index, Option<i64>),
        name!(lag, Option<i64>),
        name!(pg_address, Option<String>),
        name!(pg_role, Option<&'static str>),
        name!(wal_lsn, Option<Lsn>),
    ),
> {
    let page = shared::get_or_raise().page();
    let mut view = page.view().unwrap_or_default();
    if !page.is_fresh(sys::now_boottime_ns()) {
        forget_what_is_not_certain(&mut view);
    }
    let View { leader, node_id, last_index, .. } = view;
    TableIterator::new(view.members.into_iter().map(move |member| {
        let lag = member.matched.map(|matched| last_index.saturating_sub(matched) as i64);
        (
            member.id as i32,
            member.address,
            i32::from(member.port),
            member.id == leader,
            known(member.name),
            member.voter,
            member.id == node_id,
            member.reachable,
            member.last_contact_unix_us.and_then(timestamp),
            member.matched.map(|matched| matched as i64),
            lag,
            known(member.pg_address),
            member.pg_role.map(role_name),
            Some(member.wal_lsn).filter(|lsn| *lsn != 0).map(Lsn),
        )
    }))
}

/// Without a worker nobody knows who leads and who answers; who takes part is still as it was.
fn forget_what_is_not_certain(view: &mut View) {
    view.leader = 0;
    for member in &mut view.members {
        *member = MemberView { reachable: None, matched: None, ..std::mem::take(member) };
    }
}

fn known(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// As SQL shows it.
pub(super) fn role_name(role: PgRole) -> &'static str {
    match role {
        PgRole::Primary => "primary",
        PgRole::Standby => "standby",
    }
}
