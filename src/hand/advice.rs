//! What a member's server should be set to before it is needed: told when the worker starts, not at
//! the failover that fails for it. Pure.

/// The settings that failover and pg_rewind rest on, as the server has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `hot_standby`.
    pub hot_standby: bool,
    /// `wal_log_hints`, or data checksums, which do the same.
    pub hints_are_logged: bool,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// `max_wal_senders`.
    pub wal_senders_max: u32,
    /// `max_replication_slots`.
    pub slots_max: u32,
    /// `max_worker_processes`.
    pub workers_max: u32,
    /// `max_parallel_workers`: so many of them may be taken by queries.
    pub parallel_workers_max: u32,
}

/// Places that parallel queries must leave: for pgraft's worker, for the launcher of logical
/// replication, and for a helper process of pgraft's, one at a time.
const WORKERS_MIN: u32 = 3;

/// What should be changed on a server that has so many other members, a sentence each.
pub fn advice(settings: &Settings, others: usize) -> Vec<String> {
    let mut list = Vec::new();
    if !settings.hot_standby {
        list.push(
            "hot_standby is off: as a standby this server cannot be given slots and settings, so \
             it neither follows a new primary nor keeps up a failover"
                .to_owned(),
        );
    }
    if !settings.hints_are_logged {
        list.push(
            "neither wal_log_hints nor data checksums are on: once this server is a deposed \
             primary, pg_rewind cannot bring it back and it must be cloned"
                .to_owned(),
        );
    }
    if !settings.full_page_writes {
        list.push(
            "full_page_writes is off: pg_rewind cannot take its data from this server".to_owned(),
        );
    }
    let limits = [
        ("max_wal_senders", settings.wal_senders_max),
        ("max_replication_slots", settings.slots_max),
    ];
    for (name, max) in limits {
        if (max as usize) < others {
            list.push(format!(
                "{name} is {max}: as primary this server serves {others} members, so some of them \
                 would not follow it"
            ));
        }
    }
    let Settings { workers_max, parallel_workers_max, .. } = *settings;
    if workers_max.saturating_sub(parallel_workers_max) < WORKERS_MIN {
        list.push(format!(
            "max_worker_processes is {workers_max} and max_parallel_workers \
             {parallel_workers_max}: parallel queries may leave no place for pgraft's helper \
             process, and while they last this server as a standby neither follows a new primary \
             nor, with synchronous_mode on, counts in a failover: let {WORKERS_MIN} places be left"
        ));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_set_well_needs_no_advice_and_each_shortcoming_has_its_own() {
        let good = Settings {
            hot_standby: true,
            hints_are_logged: true,
            full_page_writes: true,
            wal_senders_max: 4,
            slots_max: 4,
            workers_max: 8,
            parallel_workers_max: 5,
        };
        assert_eq!(advice(&good, 4), [""; 0]);
        let bad = [
            (Settings { hot_standby: false, ..good }, "hot_standby"),
            (Settings { hints_are_logged: false, ..good }, "wal_log_hints"),
            (Settings { full_page_writes: false, ..good }, "full_page_writes"),
            (Settings { wal_senders_max: 3, ..good }, "max_wal_senders is 3"),
            (Settings { slots_max: 0, ..good }, "max_replication_slots is 0"),
            (Settings { workers_max: 7, ..good }, "max_worker_processes is 7"),
            (Settings { parallel_workers_max: 9, ..good }, "max_parallel_workers 9"),
        ];
        for (settings, named) in bad {
            let said = advice(&settings, 4);
            assert!(said.len() == 1 && said[0].contains(named), "{said:?}");
        }
    }
}
