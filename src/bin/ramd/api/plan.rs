//! What a change that is asked for would do, or why it would be refused: by what is known at this
//! moment, and without doing anything. What pgraft itself refuses, it refuses afterwards.

use serde_json::{Map, Value};

use super::envelope::Refusal;
use super::moment::Moment;
use crate::orders::What;
use crate::overview::{Member, Page, PgState};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Move the primary, from the one named if one is.
    Switchover {
        /// Who is taken for the primary.
        leader: Option<String>,
        /// Who shall be.
        candidate: Option<String>,
    },
    /// Have another primary, whatever the one that is does.
    Failover {
        /// Who shall be.
        candidate: Option<String>,
    },
    /// No failover by itself from now on.
    Pause,
    /// Failover by itself again.
    Resume,
    /// Start, stop or restart this node's server.
    Server {
        /// Which of them.
        what: What,
        /// The node in the path.
        node: String,
    },
    /// Have this node's server read its configuration.
    Reload,
}

/// Who is asked to do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// pgraft, through the local server.
    Pgraft(String),
    /// pgraft, through the server of the leader, if it is to be had; else the local one.
    Leader(String),
    /// ramd's hand.
    Hand(What),
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In words.
    pub text: String,
    /// By whom.
    pub by: By,
    /// The primary afterwards, if it is known.
    pub candidate: Option<u32>,
}

impl Change {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Change::Switchover { .. } => "switchover",
            Change::Failover { .. } => "failover",
            Change::Pause => "pause",
            Change::Resume => "resume",
            Change::Server { what: What::Start, .. } => "start",
            Change::Server { what: What::Stop, .. } => "stop",
            Change::Server { .. } => "restart",
            Change::Reload => "reload",
        }
    }

    /// What it would do now.
    pub fn plan(&self, moment: &Moment) -> Result<Plan, Refusal> {
        let pgraft = |text: &str, sql: &str| Plan {
            text: text.to_owned(),
            by: By::Pgraft(sql.to_owned()),
            candidate: None,
        };
        match self {
            Change::Switchover { leader, candidate } => {
                switchover(moment, leader.as_deref(), candidate.as_deref())
            }
            Change::Failover { candidate } => failover(moment, candidate.as_deref()),
            Change::Pause => {
                able(moment)?;
                Ok(pgraft("pause automatic failover on all nodes", "SELECT pgraft_pause()"))
            }
            Change::Resume => {
                able(moment)?;
                Ok(pgraft("resume automatic failover on all nodes", "SELECT pgraft_resume()"))
            }
            Change::Server { what, node } => server(moment, *what, node),
            Change::Reload => {
                running(moment)?;
                let text = "have the server read its configuration".to_owned();
                Ok(Plan { text, by: By::Hand(What::Reload), candidate: None })
            }
        }
    }
}

/// The page of a member whose server can be asked.
fn able(moment: &Moment) -> Result<&Page, Refusal> {
    const ELSEWHERE: &str = "Ask the ramd of another node.";
    let page = moment.page().map_err(|why| Refusal::new(503, "unknown", why).hint(ELSEWHERE))?;
    if page.state != "member" {
        let message = format!("this node is no member of a cluster: it is {}", page.state);
        return Err(Refusal::new(409, "no_member", message));
    }
    // What the board says may be a moment old: one that has just started is worth a try.
    if let (PgState::Down | PgState::Hung, Err(why)) =
        (moment.overview.postgres.state, moment.facts())
    {
        return Err(Refusal::new(503, "no_server", why).hint(ELSEWHERE));
    }
    Ok(page)
}

fn running(moment: &Moment) -> Result<(), Refusal> {
    match moment.overview.postgres.state {
        PgState::Down => Err(Refusal::new(409, "no_server", "PostgreSQL is down")),
        _ => Ok(()),
    }
}

fn switchover(
    moment: &Moment,
    leader: Option<&str>,
    candidate: Option<&str>,
) -> Result<Plan, Refusal> {
    let page = able(moment)?;
    let primary = primary_of(page)?;
    if let Some(leader) = leader
        && find(page, leader)?.id != primary.id
    {
        let message = format!("the primary is {}", named(primary));
        return Err(Refusal::new(412, "not_the_leader", message));
    }
    let to = match candidate {
        Some(candidate) => checked(page, candidate)?,
        None => best(page)
            .ok_or_else(|| Refusal::new(409, "no_candidate", "no standby could be the primary"))?,
    };
    Ok(hand_over(primary, to))
}

fn hand_over(primary: &Member, to: &Member) -> Plan {
    Plan {
        text: format!("move the primary from {} to {}, without loss", named(primary), named(to)),
        by: By::Pgraft(format!("SELECT pgraft_transfer_leadership({})", to.id)),
        candidate: Some(to.id),
    }
}

fn failover(moment: &Moment, candidate: Option<&str>) -> Result<Plan, Refusal> {
    let page = able(moment)?;
    let primary = primary_of(page)?;
    let candidate = candidate.map(|candidate| checked(page, candidate)).transpose()?;
    let lost = primary.reachable == Some(false) || primary.pg_role != Some("primary");
    if lost && page.paused {
        let message = format!("{} is lost, and automatic failover is paused", named(primary));
        return Err(Refusal::new(409, "paused", message)
            .hint("POST /api/v1/cluster/resume: pgraft promotes the most advanced standby then."));
    }
    Ok(match candidate {
        Some(to) => hand_over(primary, to),
        None => Plan {
            text: format!(
                "have pgraft replace {} by the most advanced standby{}",
                named(primary),
                if lost { "" } else { ", without loss" }
            ),
            by: By::Leader("SELECT pgraft_force_election()".to_owned()),
            candidate: None,
        },
    })
}

fn server(moment: &Moment, what: What, node: &str) -> Result<Plan, Refusal> {
    let own = moment.overview.node_id;
    let is_own = node.parse() == Ok(own) || node == moment.overview.node_name;
    if !is_own {
        // Whether it is a member at all is worth telling apart.
        if let Ok(page) = &moment.page {
            find(page, node)?;
        }
        let message = format!("this is the ramd of node {own}, and rules no other server");
        return Err(Refusal::new(409, "another_node", message).hint("Ask that node's own ramd."));
    }
    let verb = match what {
        What::Start if moment.overview.postgres.state != PgState::Down => {
            return Err(Refusal::new(409, "is_up", "PostgreSQL runs already"));
        }
        What::Start => "start",
        What::Stop => {
            running(moment)?;
            "stop"
        }
        What::Restart | What::Reload => "restart",
    };
    let primary = moment.page.as_ref().is_ok_and(|page| page.primary_id == own);
    let and = match primary {
        true if moment.overview.paused => "; it is the primary, and stays it",
        true => "; it is the primary, and another takes over if it can",
        false => "",
    };
    let text = format!("{verb} the server of node {own}{and}");
    Ok(Plan { text, by: By::Hand(what), candidate: None })
}

fn primary_of(page: &Page) -> Result<&Member, Refusal> {
    if !page.has_quorum {
        return Err(Refusal::new(409, "no_quorum", "no leader is heard, or no quorum"));
    }
    page.member(page.primary_id)
        .ok_or_else(|| Refusal::new(409, "no_primary", "there is no primary"))
}

/// A member by its id or its name.
pub fn find<'a>(page: &'a Page, node: &str) -> Result<&'a Member, Refusal> {
    let by_id = node.parse().ok().and_then(|id| page.member(id));
    by_id.or_else(|| page.members.iter().find(|member| member.name == node)).ok_or_else(|| {
        let names: Vec<String> = page.members.iter().map(named).collect();
        let message = format!("there is no such member: \"{}\"", shortened(node));
        Refusal::new(412, "no_such_member", message)
            .hint(&format!("Members: {}.", names.join(", ")))
    })
}

/// The member, if it may become the primary.
fn checked<'a>(page: &'a Page, candidate: &str) -> Result<&'a Member, Refusal> {
    let member = find(page, candidate)?;
    let no = |reason, what: &str| {
        let message = format!("{} {what}", named(member));
        Err(Refusal::new(412, reason, message))
    };
    // A follower knows others by its own links, which are not what counts: pgraft's leader decides.
    let knows = page.role == Some("leader");
    match member {
        _ if member.id == page.primary_id => no("is_the_primary", "is the primary already"),
        Member { voter: false, .. } => no("no_voter", "does not vote yet"),
        Member { pg_role: Some("primary"), .. } => no("no_standby", "is a deposed primary"),
        Member { reachable: Some(false), .. } if knows => no("unreachable", "does not answer"),
        Member { pg_role: None, .. } if knows => no("no_server", "has no PostgreSQL that is up"),
        _ => Ok(member),
    }
}

/// The standby that has the most, by what it last said.
fn best(page: &Page) -> Option<&Member> {
    let able = page.members.iter().filter(|member| {
        let standby = member.pg_role == Some("standby") && member.reachable != Some(false);
        standby && checked(page, &member.id.to_string()).is_ok()
    });
    able.max_by_key(|member| (member.wal_lsn, std::cmp::Reverse(member.id)))
}

fn named(member: &Member) -> String {
    format!("node {} ({})", member.id, member.name)
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The fields of a body, each of which must be one of these and hold a node: its id or its name.
pub fn nodes<const N: usize>(
    body: &[u8],
    known: [&'static str; N],
) -> Result<[Option<String>; N], Refusal> {
    let bad = |why: String| Refusal::new(400, "bad_request", why);
    let mut values = [const { None }; N];
    if body.trim_ascii().is_empty() {
        return Ok(values);
    }
    let fields: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body must be a JSON object: {error}")))?;
    for (field, value) in fields {
        let Some(at) = known.iter().position(|known| **known == field) else {
            let may = if N == 0 { "none".to_owned() } else { known.join(", ") };
            return Err(bad(format!("unknown field \"{}\"", shortened(&field)))
                .hint(&format!("Fields: {may}.")));
        };
        values[at] = match value {
            Value::Null => None,
            Value::String(text) if !text.is_empty() && text.len() <= 253 => Some(text),
            Value::Number(id) if whole(&id).is_some() => whole(&id).map(|id| id.to_string()),
            _ => return Err(bad(format!("\"{field}\" must be the id or the name of a node"))),
        };
    }
    Ok(values)
}

/// The number of a node; 2.0 is one in JSON.
fn whole(number: &serde_json::Number) -> Option<u64> {
    let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
    (1.0..=f64::from(u32::MAX)).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::samples::*;

    fn switchover(leader: Option<&str>, candidate: Option<&str>) -> Change {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Change::Switchover { leader: owned(leader), candidate: owned(candidate) }
    }

    fn refused(change: &Change, moment: &Moment) -> (u16, &'static str) {
        let refusal = change.plan(moment).unwrap_err();
        (refusal.status, refusal.reason)
    }

    #[test]
    fn a_switchover_goes_where_it_is_told_or_to_the_most_advanced() {
        for moment in [primary(), standby()] {
            let plan = switchover(Some("node1"), Some("3")).plan(&moment).unwrap();
            assert_eq!(plan.by, By::Pgraft("SELECT pgraft_transfer_leadership(3)".into()));
            let mut moment = moment;
            page_of(&mut moment).members[2].wal_lsn += 1;
            assert_eq!(switchover(None, None).plan(&moment).unwrap().candidate, Some(3));
            page_of(&mut moment).members[2].reachable = Some(false);
            assert_eq!(switchover(None, None).plan(&moment).unwrap().candidate, Some(2));
        }
    }

    #[test]
    fn what_is_taken_for_given_and_is_not_so_is_refused() {
        let moment = primary();
        assert_eq!(refused(&switchover(Some("2"), None), &moment), (412, "not_the_leader"));
        assert_eq!(refused(&switchover(None, Some("9")), &moment), (412, "no_such_member"));
        assert_eq!(refused(&switchover(None, Some("node1")), &moment), (412, "is_the_primary"));
        let with = |change: fn(&mut Page)| {
            let mut moment = primary();
            change(page_of(&mut moment));
            moment
        };
        let to_2 = switchover(None, Some("2"));
        assert_eq!(refused(&to_2, &with(|p| p.members[1].voter = false)), (412, "no_voter"));
        let moment = with(|p| p.members[1].reachable = Some(false));
        assert_eq!(refused(&to_2, &moment), (412, "unreachable"));
        let mut follower = standby();
        page_of(&mut follower).members[2].reachable = Some(false);
        page_of(&mut follower).members[2].pg_role = None;
        assert!(switchover(None, Some("3")).plan(&follower).is_ok());
        assert_eq!(switchover(None, None).plan(&follower).unwrap().candidate, Some(2));
        let moment = with(|p| p.members[1].pg_role = Some("primary"));
        assert_eq!(refused(&to_2, &moment), (412, "no_standby"));
        assert_eq!(refused(&to_2, &with(|p| p.primary_id = 0)), (409, "no_primary"));
        assert_eq!(refused(&to_2, &with(|p| p.has_quorum = false)), (409, "no_quorum"));
        assert_eq!(refused(&Change::Pause, &with(|p| p.state = "joining")), (409, "no_member"));
        let moment = with(|p| p.members.truncate(1));
        assert_eq!(refused(&switchover(None, None), &moment), (409, "no_candidate"));
        let mut moment = primary();
        moment.page = Err("no segment".into());
        assert_eq!(refused(&to_2, &moment), (503, "unknown"));
        for (state, able) in
            [(PgState::Hung, false), (PgState::Down, false), (PgState::Unknown, true)]
        {
            let mut moment = primary();
            set(&mut moment, |overview| {
                overview.postgres.state = state;
                overview.postgres.facts = None;
            });
            assert_eq!(to_2.plan(&moment).is_ok(), able, "{state:?}");
        }
    }

    #[test]
    fn a_failover_of_a_lost_primary_is_refused_while_paused() {
        let mut moment = standby();
        page_of(&mut moment).members[0].reachable = Some(false);
        let change = Change::Failover { candidate: None };
        assert!(matches!(change.plan(&moment).unwrap().by, By::Leader(_)));
        page_of(&mut moment).paused = true;
        assert_eq!(refused(&change, &moment), (409, "paused"));
        page_of(&mut moment).members[0].reachable = Some(true);
        assert!(change.plan(&moment).is_ok());
    }

    #[test]
    fn only_its_own_server_is_restarted() {
        let server = |what, node: &str| Change::Server { what, node: node.into() };
        let restart = |node: &str| server(What::Restart, node);
        assert!(restart("1").plan(&primary()).is_ok());
        assert!(restart("node1").plan(&primary()).is_ok());
        assert_eq!(refused(&restart("2"), &primary()), (409, "another_node"));
        assert_eq!(refused(&restart("7"), &primary()), (412, "no_such_member"));
        assert_eq!(refused(&server(What::Start, "1"), &primary()), (409, "is_up"));
        let mut moment = primary();
        set(&mut moment, |overview| overview.postgres.state = PgState::Down);
        assert_eq!(refused(&server(What::Stop, "1"), &moment), (409, "no_server"));
        assert!(server(What::Start, "1").plan(&moment).is_ok());
    }

    #[test]
    fn bodies_are_read_strictly() {
        let read = |body: &str| nodes(body.as_bytes(), ["leader", "candidate"]);
        assert_eq!(read(""), Ok([None, None]));
        assert_eq!(
            read(r#"{"leader": "db1", "candidate": 2.0}"#),
            Ok([Some("db1".into()), Some("2".into())]),
        );
        for bad in ["[]", "{", r#"{"leader": []}"#, r#"{"x": 1}"#, r#"{"leader": ""}"#, "\u{7f}"] {
            assert_eq!(read(bad).unwrap_err().status, 400, "{bad}");
        }
        for bad in ["-1", "0", "1.5", "1e30"] {
            let body = format!("{{\"leader\": {bad}}}");
            assert_eq!(read(&body).unwrap_err().status, 400, "{bad}");
        }
    }
}
