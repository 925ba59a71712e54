//! What ramd must not touch, and not believe: other servers of the machine, other clusters, other
//! people's processes, and what is nobody else's to see.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use pgraft_cluster::api::Api;
use pgraft_cluster::check::{SOON, await_did, equal, expect, ready};
use pgraft_cluster::{Cluster, Failure, Node, Options, Result, Stop, wait_for, with};
use serde_json::Value;

/// A rewind or a copy, starts and pauses between them, on a machine that has other things to do.
const BACK_AT_MOST: Duration = Duration::from_secs(90);

/// With a timeout that a busy machine does not run into.
fn options() -> Options {
    Options { failover: true, ..Options::calm() }
}

/// A cluster whose node 1 is the primary, and the others its standbys.
fn formed(name: &str) -> Result<Cluster> {
    let cluster = Cluster::form(name, options())?;
    ready(&cluster)?;
    Ok(cluster)
}

/// Makes this node the primary, which another one is.
fn move_to(cluster: &Cluster, id: u32) -> Result<()> {
    let sql = format!("SELECT pgraft_transfer_leadership({id})");
    wait_for(&format!("node {id} is the primary"), BACK_AT_MOST, || {
        if cluster.node(id).is_open_primary() {
            return Ok(Some(()));
        }
        for node in cluster.running().filter(|node| node.is_open_primary()) {
            node.session()?.run(&sql)?;
        }
        Ok(None)
    })
}

/// Waits until a node streams from the primary.
fn await_back(cluster: &Cluster, id: u32) -> Result<()> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_replication \
         WHERE application_name = 'pgraft_{id}' AND state = 'streaming')"
    );
    wait_for(&format!("node {id} streams"), BACK_AT_MOST, || {
        for node in cluster.running() {
            if node.session()?.is_true(&sql)? {
                return Ok(Some(()));
            }
        }
        Err(Failure::new(cluster.node(id).ramd_history().join("\n")))
    })
}

// ---- other servers

#[test]
fn the_page_of_another_server_with_the_same_key_is_not_believed() {
    let cluster = Cluster::prepare("ramd-key", options());
    with(cluster, |cluster| {
        let key = cluster.node(2).place.shmem_key;
        let peers = cluster.raft_addresses();
        for id in [1, 3] {
            cluster.node_mut(id).place.shmem_key = key;
            cluster.node(id).configure_pgraft(&peers, true, &options().pgraft)?;
        }
        cluster.start_all()?;
        cluster.create_extension()?;
        // Node 2 first: the key is its.
        for id in [2, 1, 3] {
            let mut session = cluster.node(id).session()?;
            session.run("SELECT pgraft_init()")?;
            session.run("SELECT pgraft_start()")?;
        }
        ready(cluster)?;
        // Node 1 is a primary still, which the log deposed; and what lies under its key says that
        // the commits of node 2 pass.
        move_to(cluster, 2)?;
        let node = cluster.node(1);
        node.configure_ramd("auto_rejoin_enabled = off")?;
        let ramd = node.start_ramd()?;
        wait_for("its ramd sees its server", SOON, || {
            Ok((Api::of(node).get("/health")?.status == 200).then_some(()))
        })?;
        for path in ["/primary", "/leader"] {
            let answer = Api::of(node).get(path)?;
            equal(answer.status, 503, &answer.text)?;
            equal(&answer.body["pgraft"]["known"], &Value::from(false), &answer.text)?;
            let reason = answer.body["pgraft"]["reason"].as_str().unwrap_or_default();
            expect(reason.contains("another server"), || answer.text.clone())?;
        }
        // Whose it is may read it.
        let owner = cluster.node(2);
        owner.configure_ramd("")?;
        let owners = owner.start_ramd()?;
        wait_for("the owner's ramd says so", SOON, || {
            Ok((Api::of(owner).get("/primary")?.status == 200).then_some(()))
        })?;
        drop((ramd, owners));
        Ok(())
    });
}

/// Another cluster of the same name, made by another initdb, whose primary is node 2, at that port.
fn foreign(name: &str, port: u16) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(name, options())?;
    cluster.node_mut(2).place.pg_port = port;
    for node in cluster.nodes() {
        let doing = Failure::while_doing("remove a data directory");
        fs::remove_dir_all(node.data()).map_err(doing)?;
        match node.id() {
            1 => node.init()?,
            _ => node.copy_of(&cluster.node(1).data())?,
        }
        node.configure(true, "fsync = off")?;
        if node.id() != 1 {
            node.follow(cluster.node(1))?;
        }
    }
    cluster.start_all()?;
    cluster.init_and_start()?;
    ready(&cluster)?;
    move_to(&cluster, 2)?;
    Ok(cluster)
}

#[test]
fn the_primary_of_another_cluster_of_the_same_name_replaces_nothing() {
    with(formed("ramd-foreign"), |cluster| {
        // Node 1 was the primary, and runs on.
        move_to(cluster, 2)?;
        for id in [3, 2] {
            cluster.node_mut(id).stop(Stop::Immediate)?;
        }
        let foreign = foreign("ramd-foreign-other", cluster.node(2).place.pg_port)?;
        let node = cluster.node(1);
        let before = node.postmaster();
        expect(before.is_some(), || "node 1 is down".to_owned())?;
        node.configure_ramd("")?;
        let mut ramd = node.start_ramd()?;
        await_did(node, "rejoin", "system identifier")?;
        equal(node.postmaster(), before, "the server of node 1")?;
        expect(node.session()?.is_true("SELECT NOT pg_is_in_recovery()")?, || {
            "it is a standby".to_owned()
        })?;
        for what in ["rewind", "clone", "start", "restart"] {
            equal(node.ramd_did(what, ""), 0, what)?;
        }
        equal(node.old_data().len(), 0, "directories put aside")?;
        let told = Api::of(node).get("/cluster")?;
        expect(told.text.contains("system identifier"), || told.text.clone())?;
        expect(ramd.is_running(), || "it has ended".to_owned())?;
        drop(foreign);
        // Its own cluster comes back, and it becomes a standby of that.
        cluster.start_all()?;
        await_back(cluster, 1)
    });
}

// ---- other processes

/// A process of the servers' account that works in a folder. Dropped, it is ended.
struct Sleeper(Child);

impl Sleeper {
    fn start(node: &Node) -> Result<Sleeper> {
        let mut command = node.command("/bin/sleep");
        let child = command.arg("600").current_dir(node.data()).spawn();
        child.map(Sleeper).map_err(Failure::while_doing("start a process"))
    }

    fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ended already: as wanted
        let _ = self.0.wait();
    }
}

#[test]
fn who_only_stands_in_the_data_directory_is_left_alone() {
    let options = Options { nodes: 1, ..Options::default() };
    with(Cluster::prepare("ramd-bystander", options), |cluster| {
        let node = cluster.node(1);
        let mut sleeper = Sleeper::start(node)?;
        node.configure_ramd("")?;
        let mut ramd = node.start_ramd_in(&node.data(), &[])?;
        await_did(node, "start", "\"ok")?;
        wait_for("ramd sees its server", SOON, || {
            Ok((Api::of(node).get("/health")?.status == 200).then_some(()))
        })?;
        let stopped = Api::of(node).post("/api/v1/nodes/1/stop", "")?;
        expect(stopped.status == 200 && !node.is_running(), || stopped.text.clone())?;
        let started = Api::of(node).post("/api/v1/nodes/1/start", "")?;
        expect(started.status == 200 && node.is_running(), || started.text.clone())?;
        expect(sleeper.is_running(), || "what stood there was killed".to_owned())?;
        expect(ramd.is_running(), || "ramd has ended".to_owned())?;
        // Nor does it hold the folder that it was started from.
        let at = fs::read_link(format!("/proc/{}/cwd", ramd.pid()));
        equal(at.ok(), Some(PathBuf::from("/")), "where ramd works")?;
        drop(sleeper);
        ramd.kill();
        Ok(())
    });
}

// ---- passwords

/// What docs/ramd.md says that a role needs that is no superuser, and one for replication.
const ROLES: &str = "\
    CREATE ROLE rep LOGIN REPLICATION PASSWORD 'rep-secret';
    CREATE ROLE ramd LOGIN REPLICATION PASSWORD 'ramd-secret';
    GRANT pg_monitor, pg_checkpoint TO ramd;
    GRANT EXECUTE ON FUNCTION pg_read_file(text) TO ramd;
    GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
        pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO ramd";

/// PostgreSQL's programs, of which `pg_rewind` and `pg_basebackup` write down their arguments, and
/// which password is in their environment. The first fails if a file beside it says so.
struct Records {
    folder: PathBuf,
}

impl Records {
    fn make(node: &Node) -> Result<Records> {
        let folder = node.wrap_programs(|name, real, here| {
            format!(
                "echo {name} \"$@\" >>{here}/arguments\n\
                 echo \"{name} <$PGPASSWORD>\" >>{here}/passwords\n\
                 if [ {name} = pg_rewind ] && [ -e {here}/no-rewind ]; then exit 1; fi\n\
                 exec {real} \"$@\"\n",
                real = real.display(),
                here = here.display(),
            )
        })?;
        Ok(Records { folder })
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// What was called; no secret is in it.
    fn arguments(&self) -> Result<String> {
        let text = self.text("arguments");
        expect(!text.contains("secret") && !text.contains("password="), || text.clone())?;
        Ok(text)
    }
}

/// Every connection of these two needs its password, and the standbys have theirs in pgraft.conf.
fn ask_for_passwords(cluster: &Cluster) -> Result<()> {
    cluster.node(1).session()?.run(ROLES)?;
    cluster.await_streaming(1, SOON)?;
    let peers = cluster.raft_addresses();
    let conninfo = "replication_conninfo = user=rep password=rep-secret";
    for node in cluster.nodes() {
        let hba = node.data().join("pg_hba.conf");
        let doing = "change pg_hba.conf";
        let text = fs::read_to_string(&hba).map_err(Failure::while_doing(doing))?;
        let lines = "host all,replication ramd 127.0.0.1/32 scram-sha-256\n\
                     host replication rep 127.0.0.1/32 scram-sha-256\n\
                     host replication all 127.0.0.1/32 reject\n";
        fs::write(&hba, format!("{lines}{text}")).map_err(Failure::while_doing(doing))?;
        node.configure_pgraft(&peers, true, &format!("{}{conninfo}\n", options().pgraft))?;
        node.session()?.run("SELECT pg_reload_conf()")?;
    }
    cluster.await_streaming(1, SOON)
}

#[test]
fn passwords_are_in_no_programs_arguments_and_each_user_has_its_own() {
    with(formed("ramd-arguments"), |cluster| {
        ask_for_passwords(cluster)?;
        let node = cluster.node(1);
        let records = Records::make(node)?;
        let passfile = node.write_passfile("*:*:*:ramd:ramd-secret\n")?;
        let more = format!(
            "postgresql_user = ramd\npostgresql_passfile = {}\npostgresql_bin_directory = {}",
            passfile.display(),
            records.folder.display()
        );
        node.configure_ramd(&more)?;
        let mut ramd = node.start_ramd()?;
        await_did(node, "postgres", "-> Answering")?;
        cluster.kill_node(&mut ramd);
        let new = cluster.next_primary(Some(1), SOON)?;
        wait_for("rows are written", SOON, || {
            let sql = "INSERT INTO t SELECT generate_series(1, 100)";
            Ok(cluster.node(new).session()?.run(sql).ok())
        })?;
        ramd = cluster.node(1).start_ramd()?;
        await_did(cluster.node(1), "rewind", "\"ok")?;
        await_back(cluster, 1)?;
        let node = cluster.node(1);
        equal(node.ramd_did("clone", ""), 0, "copies")?;
        let arguments = records.arguments()?;
        expect(arguments.contains("pg_rewind") && arguments.contains("user=ramd"), || {
            arguments.clone()
        })?;
        // What the standby itself uses has it, in a file that nobody else reads.
        let conninfo = node.session()?.value("SHOW primary_conninfo")?.unwrap_or_default();
        expect(conninfo.contains("rep-secret"), || "no password is left".to_owned())?;
        // A copy is made as the other user.
        move_to(cluster, 1)?;
        fs::write(records.folder.join("no-rewind"), "")
            .map_err(Failure::while_doing("write a file"))?;
        cluster.kill_node(&mut ramd);
        cluster.next_primary(Some(1), SOON)?;
        ramd = cluster.node(1).start_ramd()?;
        await_did(cluster.node(1), "clone", "\"ok")?;
        await_back(cluster, 1)?;
        let arguments = records.arguments()?;
        expect(arguments.contains("pg_basebackup"), || arguments.clone())?;
        let passwords = records.text("passwords");
        let as_wanted = passwords.contains("pg_basebackup <rep-secret>")
            && passwords.contains("pg_rewind <>")
            && !passwords.contains("pg_rewind <rep");
        expect(as_wanted, || passwords.clone())?;
        drop(ramd);
        Ok(())
    });
}

#[test]
fn secrets_that_programs_cannot_be_told_unseen_are_refused() {
    let options = Options { nodes: 1, ..Options::default() };
    with(Cluster::prepare("ramd-validate", options), |cluster| {
        let node = cluster.node(1);
        node.configure_ramd("")?;
        let peers = cluster.raft_addresses();
        let validate = |conninfo: &str| {
            let line = format!("replication_conninfo = {conninfo}\n");
            node.configure_pgraft(&peers, false, &line)?;
            node.run_ramd(&["--validate"])
        };
        let valid = validate("user=rep password=topsecret sslmode=require")?;
        let said = String::from_utf8_lossy(&valid.stderr).into_owned();
        expect(valid.status.success(), || said)?;
        let refused = validate("user=rep sslkey=/k sslpassword=topsecret")?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        equal(refused.status.code(), Some(1), &said)?;
        let names = said.contains("\"sslpassword\"") && said.contains("pgraft.conf");
        expect(names && !said.contains("topsecret"), || said)
    });
}

// ---- certificates

#[test]
fn certificates_behind_links_stay_links_and_do_not_hinder_a_rewind() {
    with(formed("ramd-links"), |cluster| {
        for node in cluster.nodes() {
            let folder = node.place.folder.join("certificates");
            fs::create_dir(&folder).map_err(Failure::while_doing("make a folder"))?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
                .map_err(Failure::while_doing("open a folder"))?;
            let file = folder.join("server.crt");
            fs::write(&file, format!("of node {}", node.id()))
                .map_err(Failure::while_doing("write a file"))?;
            std::os::unix::fs::symlink(
                "../certificates/server.crt",
                node.data().join("server.crt"),
            )
            .map_err(Failure::while_doing("make a link"))?;
        }
        let mut ramds = cluster.start_ramds("")?;
        await_did(cluster.node(1), "postgres", "-> Answering")?;
        cluster.kill_node(&mut ramds[0]);
        let new = cluster.next_primary(Some(1), SOON)?;
        wait_for("rows are written", SOON, || {
            let sql = "INSERT INTO t SELECT generate_series(1, 100)";
            Ok(cluster.node(new).session()?.run(sql).ok())
        })?;
        ramds[0] = cluster.node(1).start_ramd()?;
        await_back(cluster, 1)?;
        let node = cluster.node(1);
        await_did(node, "rewind", "\"ok")?;
        equal(node.ramd_did("clone", ""), 0, "copies")?;
        let link = node.data().join("server.crt");
        let target = fs::read_link(&link).map_err(Failure::while_doing("read a link"))?;
        let led = node.place.folder.join("certificates/server.crt").canonicalize().ok();
        equal(Some(target), led, "where it leads")?;
        equal(fs::read_to_string(&link).ok().as_deref(), Some("of node 1"), "what is there")
    });
}
