//! The key/value store by SQL, on real servers: what it keeps, its limits, texts of any encoding,
//! lists of any length, and what a client is told when leaders and quorums go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pgraft_cluster::check::{SOON, equal, expect, is_error};
use pgraft_cluster::{Cluster, Failure, Options, Process, Result, Session, Stop};
use pgraft_cluster::{wait_for, with};
use rustix::process::Signal;

/// The first value, or "NULL".
fn value(session: &mut Session, sql: &str) -> Result<String> {
    Ok(session.value(sql)?.unwrap_or_else(|| "NULL".to_owned()))
}

/// What a call gives.
fn is(session: &mut Session, call: &str, wanted: &str) -> Result<()> {
    equal(value(session, &format!("SELECT {call}"))?.as_str(), wanted, call)
}

/// As is, on a session of each node.
fn is_everywhere(cluster: &Cluster, call: &str, wanted: &str) -> Result<()> {
    for node in cluster.nodes() {
        is(&mut node.session()?, call, wanted)
            .map_err(|failure| Failure::new(format!("node {}: {failure}", node.id())))?;
    }
    Ok(())
}

#[test]
fn it_keeps_what_it_is_told_on_leader_and_standby() {
    with(Cluster::form("store", Options::default()), |cluster| {
        for node in cluster.nodes() {
            let mut session = node.session()?;
            let own = format!("'app/{}'", node.id());
            let s = &mut session;
            is(s, &format!("pgraft_kv_get({own})"), "NULL")?;
            is(s, &format!("pgraft_kv_exists({own})"), "f")?;
            is(s, &format!("pgraft_kv_delete({own})"), "f")?;
            is(s, &format!("pgraft_kv_cas({own}, 'other', 'no')"), "f")?;
            is(s, &format!("pgraft_kv_exists({own})"), "f")?;
            // In a transaction that may write nothing and is rolled back.
            s.run("BEGIN READ ONLY")?;
            is(s, &format!("pgraft_kv_put({own}, 'one')"), "t")?;
            is(s, &format!("pgraft_kv_get({own})"), "one")?;
            s.run("ROLLBACK")?;
            // Read at once on every node, this one's change or another's.
            is_everywhere(cluster, &format!("pgraft_kv_get({own})"), "one")?;
            is(s, &format!("pgraft_kv_cas({own}, NULL, 'no')"), "f")?;
            is(s, &format!("pgraft_kv_cas({own}, 'other', 'no')"), "f")?;
            is(s, &format!("pgraft_kv_cas({own}, 'one', 'two')"), "t")?;
            is_everywhere(cluster, &format!("pgraft_kv_get({own}, true)"), "two")?;
            is(s, &format!("pgraft_kv_put({own}, '')"), "t")?;
            is_everywhere(cluster, &format!("pgraft_kv_get({own})"), "")?;
            is_everywhere(cluster, &format!("pgraft_kv_exists({own})"), "t")?;
            is(s, &format!("pgraft_kv_delete({own})"), "t")?;
            is_everywhere(cluster, &format!("pgraft_kv_exists({own})"), "f")?;
            is(s, &format!("pgraft_kv_cas({own}, NULL, 'anew')"), "t")?;
            // By the other names.
            is(s, &format!("pgraft.kv_get({own})"), "anew")?;
            is(s, &format!("pgraft.kv_put({own}, 'x')"), "t")?;
            is(s, &format!("pgraft.kv_cas({own}, 'x', 'y')"), "t")?;
            is(s, &format!("pgraft.kv_exists({own}, consistent => true)"), "t")?;
            is(s, &format!("pgraft.kv_delete({own})"), "t")?;
            is(s, &format!("pgraft_kv_put({own}, 'here')"), "t")?;
        }
        lists_are_the_same_everywhere(cluster)?;
        locally_it_is_seen_sooner_or_later(cluster)
    });
}

fn lists_are_the_same_everywhere(cluster: &Cluster) -> Result<()> {
    // By their bytes, and not by the order of any language.
    for key in ["b", "B", "ä", "a/2", "a/10", "a", "az", "a%", "a_"] {
        is(&mut cluster.node(2).session()?, &format!("pgraft_kv_put('{key}', 'of {key}')"), "t")?;
    }
    for node in cluster.nodes() {
        let mut session = node.session()?;
        for (prefix, wanted) in [
            ("", "B,a,a%,a/10,a/2,a_,app/1,app/2,app/3,az,b,ä"),
            ("a/", "a/10,a/2"),
            ("a%", "a%"),
            ("app/", "app/1,app/2,app/3"),
            ("ä", "ä"),
            ("none", "NULL"),
        ] {
            for name in ["pgraft_kv_list_keys", "pgraft.kv_list_keys"] {
                let sql = format!("SELECT string_agg(k, ',') FROM {name}('{prefix}') AS k");
                equal(value(&mut session, &sql)?.as_str(), wanted, &sql)?;
            }
        }
        let sql = "SELECT count(*), count(*) FILTER (WHERE value = 'of ' || key), \
                   bool_and(term > 0 AND mod_index > 0), max(version) FROM pgraft_kv()";
        let row = session.rows(sql)?.remove(0);
        let row: Vec<&str> = row.iter().map(|v| v.as_deref().unwrap_or("NULL")).collect();
        equal(row, vec!["12", "9", "t", "1"], sql)?;
    }
    // A version counts the changes that were made, and index and term grow.
    let mut session = cluster.node(3).session()?;
    let sql = "SELECT version, mod_index, term FROM pgraft_kv() WHERE key = 'a'";
    let first = session.rows(sql)?.remove(0);
    session.run("SELECT pgraft_kv_cas('a', 'not', 'x'), pgraft_kv_put('a', 'x')")?;
    let second = session.rows(sql)?.remove(0);
    equal((first[0].as_deref(), second[0].as_deref()), (Some("1"), Some("2")), "version")?;
    let index = |row: &[Option<String>]| row[1].as_ref().and_then(|n| n.parse::<u64>().ok());
    expect(index(&second) > index(&first), || format!("{first:?}, then {second:?}"))?;
    equal(&first[2], &second[2], "term")?;
    Ok(())
}

fn locally_it_is_seen_sooner_or_later(cluster: &Cluster) -> Result<()> {
    cluster.node(1).session()?.run("SELECT pgraft_kv_put('local', 'now')")?;
    for node in cluster.nodes() {
        let mut session = node.session()?;
        wait_for("the key is seen locally", SOON, || {
            Ok(session.is_true("SELECT pgraft_kv_exists('local', false)")?.then_some(()))
        })?;
        is(&mut session, "pgraft_kv_get('local', consistent => false)", "now")?;
        is(&mut session, "pgraft_kv_list_keys('local', false)", "local")?;
        is(&mut session, "(SELECT count(*) FROM pgraft_kv(false))", "13")?;
    }
    Ok(())
}

#[test]
fn what_is_too_long_is_refused_and_the_longest_is_kept() {
    let pgraft = "kv_max_store_bytes = 1048576\n".to_owned();
    let options = Options { pgraft, ..Options::default() };
    with(Cluster::form("store-limits", options), |cluster| {
        let (leader, _) = cluster.leader()?;
        let follower = leader % 3 + 1;
        for id in [leader, follower] {
            let mut session = cluster.node(id).session()?;
            let s = &mut session;
            for (call, says) in [
                ("pgraft_kv_put('', 'a')", "the key is empty"),
                ("pgraft_kv_get('')", "the key is empty"),
                ("pgraft_kv_delete('')", "the key is empty"),
                ("pgraft_kv_exists('', false)", "the key is empty"),
                ("pgraft_kv_cas('', NULL, 'a')", "the key is empty"),
                ("pgraft_kv_put(repeat('k', 257), 'a')", "the key has 257 bytes, at most 256"),
                ("pgraft_kv_put(repeat('ü', 129), 'a')", "the key has 258 bytes, at most 256"),
                ("pgraft_kv_get(repeat('数', 86))", "the key has 258 bytes, at most 256"),
                ("pgraft_kv_delete(repeat('k', 1000000))", "at most 256"),
                ("pgraft_kv_list_keys(repeat('k', 257))", "the key has 257 bytes, at most 256"),
                ("pgraft_kv_put('k', repeat('v', 8193))", "the value has 8193 bytes, at most 8192"),
                ("pgraft_kv_put('k', repeat('ü', 4097))", "the value has 8194 bytes"),
                ("pgraft_kv_put('k', repeat('v', 100000000))", "at most 8192"),
                ("pgraft_kv_cas('k', 'a', repeat('v', 8193))", "the value has 8193 bytes"),
                ("pgraft_kv_cas('k', repeat('v', 8193), 'a')", "the value has 8193 bytes"),
            ] {
                let error = s.error(&format!("SELECT {call}"))?;
                is_error(&error, "22023", &[says])?;
                expect(error.hint.is_some(), || format!("no hint: {error}"))?;
            }
            is(s, "(SELECT count(*) FROM pgraft_kv())", "0")?;

            // The longest, in characters of one to four bytes; a cas of two such goes in two parts.
            for (character, bytes) in [("k", 1), ("ü", 2), ("数", 3), ("🦀", 4)] {
                let key = format!("repeat('{character}', {})", 256 / bytes);
                let long = format!("repeat('{character}', {})", 8192 / bytes);
                let other = format!("repeat('x', 8192 - {bytes}) || '{character}'");
                is(s, &format!("pgraft_kv_put({key}, {long})"), "t")?;
                is_everywhere(cluster, &format!("pgraft_kv_get({key}) = {long}"), "t")?;
                is_everywhere(cluster, &format!("pgraft_kv_list_keys() = {key}"), "t")?;
                is(s, &format!("pgraft_kv_cas({key}, {other}, {long})"), "f")?;
                is(s, &format!("pgraft_kv_cas({key}, {long}, {other})"), "t")?;
                is_everywhere(cluster, &format!("pgraft_kv_get({key}) = {other}"), "t")?;
                is(s, &format!("pgraft_kv_delete({key})"), "t")?;
            }
        }
        let mut session = cluster.node(follower).session()?;
        a_full_store_refuses_growth_only(&mut session)
    });
}

fn a_full_store_refuses_growth_only(session: &mut Session) -> Result<()> {
    let mut fitted = 0;
    let error = loop {
        let put = format!("SELECT pgraft_kv_put('fill/{fitted}', repeat('f', 8192))");
        match session.rows(&put) {
            Ok(_) => fitted += 1,
            Err(error) => break error,
        }
        expect(fitted < 130, || "more than a MiB fits".to_owned())?;
    };
    is_error(&error, "53400", &["1048576"])?;
    expect(error.hint.is_some(), || format!("no hint: {error}"))?;
    expect(fitted > 110, || format!("full with {fitted} values"))?;
    is(session, "(SELECT count(*) FROM pgraft_kv_list_keys('fill/'))", &fitted.to_string())?;
    // What does not grow it goes on, and a deletion makes room.
    is(session, "pgraft_kv_put('fill/0', repeat('g', 8192))", "t")?;
    is(session, "pgraft_kv_cas('fill/0', repeat('g', 8192), '')", "t")?;
    is(session, "pgraft_kv_delete('fill/1')", "t")?;
    is(session, "pgraft_kv_put('fill/more', repeat('h', 8192))", "t")
}

#[test]
fn texts_of_other_encodings_are_the_same_texts() {
    with(Cluster::form("store-text", Options { nodes: 1, ..Options::default() }), |cluster| {
        let port = cluster.node(1).place.pg_port;
        let mut utf8 = cluster.node(1).session()?;
        for encoding in ["LATIN1", "EUC_JP", "SQL_ASCII"] {
            utf8.run(&format!(
                "CREATE DATABASE {encoding} ENCODING '{encoding}' TEMPLATE template0 \
                 LC_COLLATE 'C' LC_CTYPE 'C'"
            ))?;
        }
        let database = |name: &str| -> Result<Session> {
            let mut session = Session::connect_to(port, "postgres", name)?;
            session.run("CREATE EXTENSION IF NOT EXISTS pgraft")?;
            Ok(session)
        };
        let mut latin1 = database("latin1")?;
        equal(value(&mut latin1, "SHOW server_encoding")?.as_str(), "LATIN1", "encoding")?;
        is(&mut latin1, "pgraft_kv_put('ä/Ü', 'größe é')", "t")?;
        is(&mut utf8, "pgraft_kv_get('ä/Ü')", "größe é")?;
        is(&mut utf8, "octet_length(pgraft_kv_get('ä/Ü'))", "10")?;
        is(&mut latin1, "octet_length(pgraft_kv_get('ä/Ü'))", "7")?;
        is(&mut latin1, "pgraft_kv_list_keys('ä')", "ä/Ü")?;
        is(&mut latin1, "(SELECT key || value FROM pgraft_kv())", "ä/Ügröße é")?;
        is(&mut latin1, "pgraft_kv_cas('ä/Ü', 'größe é', 'ÿ')", "t")?;
        is(&mut utf8, "pgraft_kv_exists('ä/Ü')", "t")?;
        is(&mut utf8, "pgraft_kv_cas('ä/Ü', 'ÿ', 'ö')", "t")?;
        // Limits are of the UTF-8: 128 bytes there, 256 here.
        is(&mut latin1, "pgraft_kv_put(repeat('ä', 128), repeat('ö', 4096))", "t")?;
        is(&mut utf8, "length(pgraft_kv_get(repeat('ä', 128)))", "4096")?;
        let error = latin1.error("SELECT pgraft_kv_put(repeat('ä', 129), 'v')")?;
        is_error(&error, "22023", &["258 bytes"])?;

        // Of another script: the reader's database cannot show it, which Postgres says itself.
        is(&mut utf8, "pgraft_kv_put('script', '数据')", "t")?;
        let error = latin1.error("SELECT pgraft_kv_get('script')")?;
        is_error(&error, "22P05", &["no equivalent in encoding \"LATIN1\""])?;
        is(&mut latin1, "pgraft_kv_exists('script')", "t")?;
        let error = latin1.error("SELECT * FROM pgraft_kv()")?;
        is_error(&error, "22P05", &["no equivalent"])?;
        is(&mut latin1, "(SELECT count(*) FROM pgraft_kv_list_keys())", "3")?;
        is(&mut utf8, "pgraft_kv_put('数', 'key')", "t")?;
        is_error(&latin1.error("SELECT pgraft_kv_list_keys()")?, "22P05", &["no equivalent"])?;
        is(&mut latin1, "pgraft_kv_list_keys('script')", "script")?;

        let mut japanese = database("euc_jp")?;
        is(&mut japanese, "pgraft_kv_get('数')", "key")?;
        is(&mut japanese, "pgraft_kv_put('日本', '語')", "t")?;
        is(&mut utf8, "pgraft_kv_get('日本')", "語")?;
        // A database without an encoding: its bytes must be UTF-8.
        let mut ascii = database("sql_ascii")?;
        is(&mut ascii, "pgraft_kv_get('日本')", "語")?;
        is(&mut ascii, "pgraft_kv_put('bytes', E'\\xc3\\xa4')", "t")?;
        is(&mut utf8, "pgraft_kv_get('bytes')", "ä")?;
        is_error(&ascii.error("SELECT pgraft_kv_put('bytes', E'\\xff')")?, "22021", &[])?;
        is_error(&ascii.error("SELECT pgraft_kv_get(E'\\xc3')")?, "22021", &[])?;
        is(&mut utf8, "pgraft_kv_get('bytes')", "ä")
    });
}

/// Keys of the test below and the length of each value: a list of 8 MB, of 900 parts.
const KEYS: u32 = 2000;
const VALUE_BYTES: u32 = 4000;

/// What the list of them must give.
fn list_is_whole(session: &mut Session) -> std::result::Result<bool, pgraft_cluster::SqlError> {
    let sql = "SELECT count(*), sum(length(value)), count(DISTINCT value), \
                      bool_and(value LIKE key || '-%') FROM pgraft_kv()";
    let row = session.rows(sql)?.remove(0);
    let row: Vec<&str> = row.iter().map(|v| v.as_deref().unwrap_or("NULL")).collect();
    let (keys, bytes) = (KEYS.to_string(), (KEYS * VALUE_BYTES).to_string());
    Ok(row == [keys.as_str(), bytes.as_str(), keys.as_str(), "t"])
}

#[test]
fn lists_of_many_parts_are_whole_and_cancelled_ones_leave_nothing_behind() {
    with(Cluster::form("store-lists", Options::default()), |cluster| {
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.place.pg_port).collect();
        fill(&ports)?;
        for node in cluster.nodes() {
            expect(list_is_whole(&mut node.session()?)?, || "another list".to_owned())?;
            let sql = "SELECT count(*), max(k) FROM pgraft_kv_list_keys() AS k";
            let row = node.session()?.rows(sql)?.remove(0);
            let last = format!("key/{:05}", KEYS - 1);
            equal(row, vec![Some(KEYS.to_string()), Some(last)], sql)?;
        }

        // More at once than the worker works on; the others have their turn after them.
        let port = ports[1];
        at_once(8, |_| {
            let mut session = Session::connect(port)?;
            for _ in 0..3 {
                expect(list_is_whole(&mut session)?, || "another list".to_owned())?;
            }
            Ok(())
        })?;

        // More often than there are slots, at any moment: none is lost.
        let mut session = Session::connect(port)?;
        let (mut cancelled, mut whole) = (0, 0);
        for n in 0..200 {
            change_timeout(&mut session, &format!("SET statement_timeout = '{}ms'", 1 + n % 60))?;
            match list_is_whole(&mut session) {
                Ok(true) => whole += 1,
                Ok(false) => return Err(Failure::new("another list")),
                Err(error) => {
                    is_error(&error, "57014", &["statement timeout"])?;
                    cancelled += 1;
                }
            }
        }
        println!("{cancelled} cancelled, {whole} not");
        expect(cancelled > 64, || format!("only {cancelled} lists were cancelled"))?;
        change_timeout(&mut session, "RESET statement_timeout")?;
        expect(list_is_whole(&mut session)?, || "another list".to_owned())?;

        // Backends that end in the middle, as well.
        for n in 0..20 {
            let mut victim = Session::connect(port)?;
            let pid = value(&mut victim, "SELECT pg_backend_pid()")?;
            thread::scope(|scope| {
                scope.spawn(|| list_is_whole(&mut victim).is_ok());
                thread::sleep(Duration::from_millis(n));
                session.run(&format!("SELECT pg_terminate_backend({pid})"))
            })?;
        }
        expect(list_is_whole(&mut session)?, || "another list".to_owned())?;

        // Who takes only the first rows, or keeps a cursor open, holds up nobody.
        let idle: Vec<Session> = (0..6)
            .map(|_| {
                let mut session = Session::connect(port)?;
                session.run("BEGIN; DECLARE c CURSOR FOR SELECT pgraft_kv()")?;
                equal(session.rows("FETCH 1 FROM c")?.len(), 1, "rows")?;
                Ok(session)
            })
            .collect::<Result<_>>()?;
        is(&mut session, "pgraft_kv_list_keys() LIMIT 1", "key/00000")?;
        expect(list_is_whole(&mut session)?, || "another list".to_owned())?;
        drop(idle);
        Ok(())
    });
}

fn fill(ports: &[u16]) -> Result<()> {
    let share = KEYS / 8;
    at_once(8, |n| {
        let first = n * share;
        Session::connect(ports[n as usize % ports.len()])?.run(&format!(
            "SELECT pgraft_kv_put('key/' || lpad(n::text, 5, '0'), \
                        rpad('key/' || lpad(n::text, 5, '0') || '-', {VALUE_BYTES}, 'x')) \
               FROM generate_series({first}, {first} + {share} - 1) AS n"
        ))?;
        Ok(())
    })
}

/// Runs it in so many threads, and fails if one fails.
fn at_once(threads: u32, what: impl Fn(u32) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn({
                    let what = &what;
                    move || what(n)
                })
            })
            .collect();
        all.into_iter()
            .map(|thread| {
                let failed = |_| Err(Failure::new("a thread of the test panicked"));
                thread.join().unwrap_or_else(failed)
            })
            .fold(Ok(()), Result::and)
    })
}

#[test]
fn without_a_quorum_only_local_reads_answer_and_all_slots_come_back() {
    with(Cluster::form("store-quorum", Options::default()), |cluster| {
        let (leader, _) = cluster.leader()?;
        let mut session = cluster.node(leader).session()?;
        session.run("SELECT pgraft_kv_put('there', 'before')")?;
        let others: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
        let survivor = others[0];
        wait_for("the survivor has the key", SOON, || {
            let mut session = cluster.node(survivor).session()?;
            Ok(session.is_true("SELECT pgraft_kv_exists('there', false)")?.then_some(()))
        })?;
        for id in [leader, others[1]] {
            cluster.node_mut(id).stop(Stop::Immediate)?;
        }
        let port = cluster.node(survivor).place.pg_port;
        let mut session = Session::connect(port)?;
        session.run("SET pgraft.command_timeout = '1s'")?;
        for call in [
            "pgraft_kv_get('there')",
            "pgraft_kv_exists('there')",
            "pgraft_kv_list_keys()",
            "pgraft_kv()",
        ] {
            let error = session.error(&format!("SELECT {call}"))?;
            is_error(&error, "57P03", &["node "])?;
            expect(error.hint.is_some(), || format!("no hint: {error}"))?;
        }
        for call in ["pgraft_kv_put('there', 'x')", "pgraft_kv_cas('there', 'before', 'x')"] {
            let error = session.error(&format!("SELECT {call}"))?;
            let unknown = error.sqlstate.as_deref() == Some("40003");
            is_error(&error, if unknown { "40003" } else { "57P03" }, &["node "])?;
        }
        is(&mut session, "pgraft_kv_get('there', false)", "before")?;
        is(&mut session, "pgraft_kv_exists('there', consistent => false)", "t")?;
        is(&mut session, "pgraft_kv_list_keys('', false)", "there")?;
        is(&mut session, "(SELECT value FROM pgraft_kv(false))", "before")?;
        // A wait is cancelled at once, whatever the time it has.
        session.run("SET pgraft.command_timeout = '1h'; SET statement_timeout = '100ms'")?;
        is_error(&session.error("SELECT pgraft_kv_get('there')")?, "57014", &[])?;
        is_error(&session.error("SELECT pgraft_kv_list_keys()")?, "57014", &[])?;
        is_error(&session.error("SELECT pgraft_kv_put('there', 'x')")?, "57014", &[])?;
        change_timeout(&mut session, "RESET statement_timeout; RESET pgraft.command_timeout")?;
        all_slots_at_once(port, &mut session)
    });
}

/// Changes a short timeout, which holds for the change itself, too.
fn change_timeout(session: &mut Session, sql: &str) -> Result<()> {
    wait_for(sql, SOON, || Ok(session.run(sql).map(Some)?))
}

/// Sixty-four wait; the next is told so. When they have given up, all is as before.
fn all_slots_at_once(port: u16, session: &mut Session) -> Result<()> {
    let waiting = AtomicU64::new(0);
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut waiter = Session::connect(port)?;
                    waiter.run("SET pgraft.command_timeout = '1h'")?;
                    waiting.fetch_add(1, Ordering::Relaxed);
                    let error = waiter.error("SELECT pgraft_kv_get('there')")?;
                    is_error(&error, "57014", &["user request"])
                })
            })
            .collect();
        let busy = wait_for("all slots are in use", SOON, || {
            let error = session.rows("SELECT pgraft_kv_get('there', false)").err();
            Ok(error.filter(|_| waiting.load(Ordering::Relaxed) == 64))
        });
        let sql = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                   WHERE wait_event = 'PgraftCommand'";
        let cancelled = value(session, sql);
        let outcomes: Vec<_> = waiters.into_iter().map(|waiter| waiter.join()).collect();
        is_error(&busy?, "53000", &["64 command slots"])?;
        equal(cancelled?.as_str(), "64", "those who waited")?;
        for outcome in outcomes {
            outcome.map_err(|_| Failure::new("a thread of the test panicked"))??;
        }
        is(session, "pgraft_kv_get('there', false)", "before")
    })
}

/// What a client did to one key: its version says how often it was changed.
#[derive(Clone, Copy, Default, Debug)]
struct Puts {
    confirmed: u64,
    unknown: u64,
}

#[test]
fn a_put_is_done_at_most_once_while_leaders_are_killed() {
    static DONE: AtomicBool = AtomicBool::new(false);
    with(Cluster::form("store-kills", Options::default()), |cluster| {
        let clients: Vec<_> = cluster
            .nodes()
            .iter()
            .flat_map(|node| (0..2).map(|n| (node.place.pg_port, format!("k/{}/{n}", node.id()))))
            .map(|(port, key)| (key.clone(), thread::spawn(move || client(port, &key, &DONE))))
            .collect();
        let killed = kill_leaders(cluster);
        DONE.store(true, Ordering::Relaxed);
        let mut puts = BTreeMap::new();
        for (key, client) in clients {
            let failed = |_| Failure::new("a client panicked");
            puts.insert(key, client.join().map_err(failed)??);
        }
        killed?;
        cluster.leader()?;
        println!("{puts:?}");
        for node in cluster.nodes() {
            let rows = node.session()?.rows("SELECT key, version, value FROM pgraft_kv()")?;
            equal(rows.len(), puts.len(), "keys")?;
            for row in rows {
                let text = |n: usize| row[n].clone().unwrap_or_default();
                let Puts { confirmed, unknown } = puts[&text(0)];
                let version: u64 = text(1).parse().unwrap_or(0);
                let good = (confirmed..=confirmed + unknown).contains(&version);
                expect(good, || format!("{row:?} of {confirmed} puts and {unknown} perhaps"))?;
            }
        }
        let confirmed: u64 = puts.values().map(|puts| puts.confirmed).sum();
        expect(confirmed > 100, || format!("only {confirmed} puts got through"))
    });
}

/// Leaders' servers with SIGKILL, then a leader's worker with SIGTERM, in turn.
fn kill_leaders(cluster: &mut Cluster) -> Result<()> {
    for round in 0..6 {
        let (leader, term) = cluster.leader()?;
        match round % 2 {
            0 => {
                let processes = cluster.node(leader).processes();
                processes.into_iter().for_each(Process::kill);
                cluster.node_mut(leader).kill();
                cluster.leader_after(term, SOON)?;
                cluster.node_mut(leader).start()?;
            }
            _ => {
                let worker = cluster.node(leader).worker();
                worker.into_iter().for_each(|worker| worker.signal(Signal::TERM));
                wait_for("a worker of another process", SOON, || {
                    Ok(cluster.node(leader).worker().filter(|now| Some(*now) != worker))
                })?;
            }
        }
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Puts, one after the other, until told to stop; connects again when its server went away.
fn client(port: u16, key: &str, done: &AtomicBool) -> Result<Puts> {
    let mut puts = Puts::default();
    let mut session = None;
    while !done.load(Ordering::Relaxed) {
        let Some(open) = &mut session else {
            match Session::connect(port) {
                Ok(open) => session = Some(open),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
            continue;
        };
        let n = puts.confirmed + puts.unknown;
        match open.rows(&format!("SELECT pgraft_kv_put('{key}', '{n}')")) {
            Ok(_) => puts.confirmed += 1,
            Err(error) => match error.sqlstate.as_deref() {
                // Nothing was changed.
                Some("57P03" | "55000" | "53000") => {}
                Some("40003") => puts.unknown += 1,
                // The server went away in the middle.
                None | Some("57P01" | "57P02") => {
                    puts.unknown += 1;
                    session = None;
                }
                Some(_) => return Err(error.into()),
            },
        }
    }
    Ok(puts)
}
