//! Bringing a deposed primary back, as docs/failover.md has it for people: stop, `pg_rewind -R`,
//! the node's own settings back, start.
//!
//! A rewound server is not consistent before it has received WAL, and pgraft can tell a server
//! whom to follow only when it is: so `-R`, which writes `primary_conninfo`, is not optional. The
//! slot's name that comes along with the primary's `postgresql.auto.conf` is the primary's own.

use std::fs;
use std::time::{Duration, Instant};

use crate::{Cluster, Failure, Node, Result, Stop};

/// Files of a data directory that say how *this* node is set up. `pg_rewind` brings the source's.
const OWN_FILES: [&str; 3] = ["node.conf", "standby.conf", "pg_hba.conf"];

/// Until there is a primary. An idle machine needs two seconds.
const PRIMARY_AT_MOST: Duration = Duration::from_secs(60);
/// A standby that does not stream after so long is taken for diverged, and rewound.
const STREAMING_AT_MOST: Duration = Duration::from_secs(25);
/// Until all is well.
const RECOVERED_AT_MOST: Duration = Duration::from_secs(150);

/// What it took to bring a server back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejoined {
    /// `pg_rewind`, which may have found that there was nothing to do.
    Rewound,
    /// `pg_rewind` could not, and a new base backup was made.
    BackedUp,
}

impl Cluster {
    /// Makes node `old` a standby of node `primary`, as [`Node::rejoin`].
    pub fn rejoin(&mut self, old: u32, primary: u32) -> Result<Rejoined> {
        let primary = self.node(primary);
        // Another value for the same server: the one of the cluster cannot be lent twice.
        let primary = Node::new(primary.place.clone(), &primary.install, &primary.account);
        self.node_mut(old).rejoin(&primary)
    }

    /// What people have to do after faults: waits for a primary, starts what is down, and makes all
    /// others standbys; those that do not follow by themselves are rewound. Who is the primary, and
    /// who was made its standby, how.
    pub fn recover(&mut self) -> Result<(u32, Vec<(u32, Rejoined)>)> {
        let until = Instant::now() + RECOVERED_AT_MOST;
        let mut rejoined = Vec::new();
        loop {
            let primary = self.next_primary(None, PRIMARY_AT_MOST)?;
            self.start_all()?;
            // It is a deposed primary's business to say so.
            for id in self.deposed(primary) {
                rejoined.push((id, self.rejoin(id, primary)?));
            }
            let streaming = self.await_streaming(primary, STREAMING_AT_MOST);
            let Err(failure) = streaming else {
                // It may have moved meanwhile, if a fault had a long tail.
                if self.node(primary).is_open_primary() {
                    return Ok((primary, rejoined));
                }
                continue;
            };
            if Instant::now() > until {
                return Err(failure);
            }
            for id in self.not_streaming(primary)? {
                rejoined.push((id, self.rejoin(id, primary)?));
            }
        }
    }

    /// Primaries that are not *the* primary.
    fn deposed(&self, primary: u32) -> Vec<u32> {
        let others = self.nodes().iter().filter(|node| node.id() != primary);
        others.filter(|node| node.is_primary()).map(Node::id).collect()
    }

    /// Standbys without a connection to the primary.
    fn not_streaming(&self, primary: u32) -> Result<Vec<u32>> {
        if !self.node(primary).is_open_primary() {
            return Ok(Vec::new());
        }
        let sql = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'";
        let rows = self.node(primary).session()?.rows(sql)?;
        let there: Vec<&str> = rows.iter().filter_map(|row| row[0].as_deref()).collect();
        let others = self.nodes().iter().map(Node::id).filter(|id| *id != primary);
        Ok(others.filter(|id| !there.contains(&format!("pgraft_{id}").as_str())).collect())
    }
}

impl Node {
    /// Makes this server, which runs or not, a standby of that primary again, and starts it. Its
    /// `raft_data_dir` stays as it is.
    pub fn rejoin(&mut self, primary: &Node) -> Result<Rejoined> {
        self.resume();
        if self.stop(Stop::Fast).is_err() {
            self.processes().into_iter().for_each(crate::Process::kill);
        }
        self.await_end_of_children()?;
        let how = match self.rewind(primary) {
            Ok(()) => {
                self.alter("primary_slot_name = ''")?;
                Rejoined::Rewound
            }
            Err(failure) => {
                println!("node {}: {failure}; a base backup instead", self.id());
                self.keeping_own_files(|node| node.base_backup(primary))?;
                let conninfo = self.conninfo_to(primary);
                self.alter(&format!("primary_conninfo = '{conninfo}'\nprimary_slot_name = ''"))?;
                Rejoined::BackedUp
            }
        };
        self.start()?;
        Ok(how)
    }

    /// Undoes what the primary does not have.
    fn rewind(&self, primary: &Node) -> Result<()> {
        // Until then the primary's control file tells of the timeline before its promotion.
        primary.session()?.run("CHECKPOINT")?;
        let source = format!("{} dbname=postgres", self.conninfo_to(primary));
        self.keeping_own_files(|node| {
            let data = node.data().display().to_string();
            // It recovers a server that was killed by itself.
            let arguments = ["-D", &data, "-R", "--source-server", &source, "--no-sync"];
            node.account.run(node.install.program("pg_rewind"), &arguments).map(drop)
        })
    }

    /// Adds a line to postgresql.auto.conf, where the last one counts.
    fn alter(&self, line: &str) -> Result<()> {
        let file = self.data().join("postgresql.auto.conf");
        let mut text = fs::read_to_string(&file)
            .map_err(Failure::while_doing(format!("read \"{}\"", file.display())))?;
        text.push_str(line);
        text.push('\n');
        self.account.write_file(&file, &text)
    }

    /// Does something that replaces all files, and puts back those that are this node's own.
    fn keeping_own_files(&self, what: impl FnOnce(&Node) -> Result<()>) -> Result<()> {
        let mut kept = Vec::new();
        for name in OWN_FILES {
            let file = self.data().join(name);
            let text = fs::read_to_string(&file)
                .map_err(Failure::while_doing(format!("read \"{}\"", file.display())))?;
            kept.push((file, text));
        }
        let outcome = what(self);
        for (file, text) in kept {
            self.account.write_file(&file, &text)?;
        }
        outcome
    }
}
