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
}

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
        };
        assert_eq!(advice(&good, 4), [""; 0]);
        let bad = [
            (Settings { hot_standby: false, ..good }, "hot_standby"),
            (Settings { hints_are_logged: false, ..good }, "wal_log_hints"),
            (Settings { full_page_writes: false, ..good }, "full_page_writes"),
            (Settings { wal_senders_max: 3, ..good }, "max_wal_senders is 3"),
            (Settings { slots_max: 0, ..good }, "max_replication_slots is 0"),
        ];
        for (settings, named) in bad {
            let said = advice(&settings, 4);
            assert!(said.len() == 1 && said[0].contains(named), "{said:?}");
        }
    }
}
