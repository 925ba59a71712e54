//! What is to be done, given what is known: pure, so that each rule can be tested. It decides
//! nothing for the cluster: who is primary is in the overview, by the log's word.

use std::time::Duration;

use crate::memory::{Memory, Step};
use crate::overview::{Overview, PgState};
use crate::settings::Settings;

/// A standby that has received nothing for so long is looked at: pgraft finds its new primary
/// within this time, if there is one to be followed.
pub const STARVES_AFTER: Duration = Duration::from_secs(5);
/// A server that takes no connections for so long is looked at: recovery may take hours, and that
/// is seen then.
pub const RECOVERS_AFTER: Duration = Duration::from_secs(20);

/// What only the hand knows.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What the last start said that shows that the data directory itself is of no use.
    pub useless: Option<String>,
    /// For how long the server, a standby, has received nothing.
    pub starving: Duration,
    /// For how long it has been in its present state.
    pub in_state: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing; why, if that may surprise.
    Watch(String),
    /// Start the server.
    Start(String),
    /// Stop it at once, and start it: it hangs.
    Restart(String),
    /// Make it a standby of the primary, once there is one: by rewinding it.
    Rejoin(String),
    /// See whether it can follow the primary at all.
    LookAtStandby(String),
    /// Go on with making a new member.
    Join,
}

/// What is to be done now.
pub fn wish(now: &Overview, memory: &Memory, settings: &Settings, known: &Known) -> Wish {
    let watch = |why: &str| Wish::Watch(why.to_owned());
    if memory.joining.is_some() {
        return Wish::Join;
    }
    if memory.step != Step::None {
        let why = "making it a standby was interrupted".to_owned();
        return match settings.auto_rejoin {
            true => Wish::Rejoin(why),
            false => Wish::Watch(format!("{why}, and auto_rejoin_enabled is off")),
        };
    }
    match now.postgres.state {
        PgState::Unknown => watch(&now.postgres.reason),
        PgState::Down if memory.stopped_by_order => watch("the server was stopped by order"),
        PgState::Down if now.paused => {
            watch("the server is down, and automatic failover was paused when pgraft last said so")
        }
        PgState::Down if !settings.auto_start => {
            watch("the server is down, and auto_start_enabled is off")
        }
        PgState::Down => match &known.useless {
            Some(why) if settings.auto_rejoin => Wish::Rejoin(format!("it cannot start: {why}")),
            _ => Wish::Start("the server is down".to_owned()),
        },
        PgState::Hung => hung(now, settings, known),
        PgState::Rejecting if known.in_state >= RECOVERS_AFTER && may_rejoin(now, settings) => {
            Wish::LookAtStandby("it takes no connections".to_owned())
        }
        PgState::Rejecting => watch(&now.postgres.reason),
        PgState::Answering => answering(now, settings, known),
    }
}

fn may_rejoin(now: &Overview, settings: &Settings) -> bool {
    settings.auto_rejoin && !now.paused
}

fn hung(now: &Overview, settings: &Settings, known: &Known) -> Wish {
    let seconds = known.in_state.as_secs();
    let why = format!("the server gave no answer for {seconds} s");
    let never = settings.hung_timeout.is_zero() || !settings.auto_start || now.paused;
    match !never && known.in_state >= settings.hung_timeout {
        true => Wish::Restart(why),
        false => Wish::Watch("the server does not answer".to_owned()),
    }
}

fn answering(now: &Overview, settings: &Settings, known: &Known) -> Wish {
    let watch = |why: &str| Wish::Watch(why.to_owned());
    let (Some(facts), Some(page)) = (&now.postgres.facts, &now.page) else {
        return watch(&now.page_unknown);
    };
    let other = page.primary_id != 0 && page.primary_id != now.node_id;
    if page.state != "member" || !other {
        return watch("");
    }
    let primary = page.primary_id;
    if !facts.in_recovery {
        let why = format!("node {primary} is the primary, and this server still is one");
        return match (settings.auto_rejoin, now.paused) {
            (true, false) => Wish::Rejoin(why),
            (false, _) => Wish::Watch(format!("{why}; auto_rejoin_enabled is off")),
            (_, true) => Wish::Watch(format!("{why}; automatic failover is paused")),
        };
    }
    if !facts.streaming && known.starving >= STARVES_AFTER && may_rejoin(now, settings) {
        return Wish::LookAtStandby(format!("it receives nothing from node {primary}"));
    }
    watch("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::{Page, PgFacts, Postgres};

    fn settings(more: &str) -> Settings {
        let path = std::env::temp_dir().join(format!(
            "ramd-policy-{}-{:?}.conf",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&path, format!("postgresql_data_directory = /data\n{more}\n")).unwrap();
        let settings = Settings::load(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        settings
    }

    /// Node 1 with a server in this state, of a cluster whose primary is node `primary`.
    fn overview(state: PgState, in_recovery: bool, primary: u32) -> Overview {
        let facts = PgFacts { in_recovery, ..PgFacts::default() };
        let facts = (state == PgState::Answering).then_some(facts);
        let page = Page { state: "member", primary_id: primary, ..Page::default() };
        Overview {
            node_id: 1,
            page: (state == PgState::Answering).then_some(page),
            postgres: Postgres { state, facts, ..Postgres::default() },
            ..Overview::default()
        }
    }

    fn ask(now: &Overview, more: &str, known: &Known) -> Wish {
        wish(now, &Memory::default(), &settings(more), known)
    }

    fn is_watch(wish: &Wish) -> bool {
        matches!(wish, Wish::Watch(_))
    }

    #[test]
    fn a_server_that_is_down_is_started_unless_people_want_it_so() {
        let none = Known::default();
        let down = overview(PgState::Down, false, 0);
        assert!(matches!(ask(&down, "", &none), Wish::Start(_)));
        assert!(is_watch(&ask(&down, "auto_start_enabled = off", &none)));
        let paused = Overview { paused: true, ..down.clone() };
        assert!(is_watch(&ask(&paused, "", &none)));
        let memory = Memory { stopped_by_order: true, ..Memory::default() };
        assert!(is_watch(&wish(&down, &memory, &settings(""), &none)));
        let useless = Known { useless: Some("no checkpoint".into()), ..none };
        assert!(matches!(ask(&down, "", &useless), Wish::Rejoin(_)));
        assert!(matches!(ask(&down, "auto_rejoin_enabled = off", &useless), Wish::Start(_)));
    }

    #[test]
    fn a_deposed_primary_rejoins_and_one_by_the_logs_word_does_not() {
        let none = Known::default();
        let deposed = overview(PgState::Answering, false, 2);
        assert!(matches!(ask(&deposed, "", &none), Wish::Rejoin(_)));
        assert!(is_watch(&ask(&deposed, "auto_rejoin_enabled = off", &none)));
        assert!(is_watch(&ask(&Overview { paused: true, ..deposed.clone() }, "", &none)));
        for primary in [0, 1] {
            assert!(is_watch(&ask(&overview(PgState::Answering, false, primary), "", &none)));
        }
        // A page that is not fresh says nothing, and one of no member nothing of this.
        assert!(is_watch(&ask(&Overview { page: None, ..deposed.clone() }, "", &none)));
        let page = Page { state: "removed", primary_id: 2, ..Page::default() };
        assert!(is_watch(&ask(&Overview { page: Some(page), ..deposed }, "", &none)));
    }

    #[test]
    fn a_standby_is_looked_at_only_when_nothing_comes_for_long() {
        let standby = overview(PgState::Answering, true, 2);
        let starving =
            |seconds| Known { starving: Duration::from_secs(seconds), ..Known::default() };
        assert!(is_watch(&ask(&standby, "", &starving(4))));
        assert!(matches!(ask(&standby, "", &starving(5)), Wish::LookAtStandby(_)));
        assert!(is_watch(&ask(&Overview { paused: true, ..standby }, "", &starving(99))));
    }

    #[test]
    fn a_server_that_hangs_is_restarted_only_after_its_time() {
        let hung = overview(PgState::Hung, false, 0);
        let known = |seconds| Known { in_state: Duration::from_secs(seconds), ..Known::default() };
        assert!(is_watch(&ask(&hung, "hung_timeout_seconds = 30", &known(29))));
        assert!(matches!(ask(&hung, "hung_timeout_seconds = 30", &known(30)), Wish::Restart(_)));
        assert!(is_watch(&ask(&hung, "hung_timeout_seconds = 0", &known(9999))));
        let rejecting = overview(PgState::Rejecting, false, 0);
        assert!(is_watch(&ask(&rejecting, "", &known(19))));
        assert!(matches!(ask(&rejecting, "", &known(20)), Wish::LookAtStandby(_)));
    }

    #[test]
    fn what_was_interrupted_goes_on_first_and_no_server_is_started_before() {
        for step in [Step::Rewinding, Step::Settling, Step::Swapping] {
            let memory = Memory { step, ..Memory::default() };
            for state in [PgState::Down, PgState::Answering, PgState::Hung] {
                let now = Overview { paused: true, ..overview(state, false, 1) };
                let wish = wish(&now, &memory, &settings(""), &Known::default());
                assert!(matches!(wish, Wish::Rejoin(_)), "{step:?} {state:?} {wish:?}");
            }
        }
    }
}
