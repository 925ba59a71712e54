//! Bringing a deposed primary back, as docs/failover.md has it for people: stop, `pg_rewind`, the
//! node's own settings back, `standby.signal`, start.

use std::fs;

use crate::{Cluster, Failure, Node, Result, Stop};

/// Files of a data directory that say how *this* node is set up. `pg_rewind` brings the source's.
const OWN_FILES: [&str; 4] = ["node.conf", "standby.conf", "postgresql.auto.conf", "pg_hba.conf"];

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
            Ok(()) => Rejoined::Rewound,
            Err(failure) => {
                println!("node {}: {failure}; a base backup instead", self.id());
                self.keeping_own_files(|node| node.base_backup(primary))?;
                Rejoined::BackedUp
            }
        };
        self.follow(primary)?;
        self.start()?;
        Ok(how)
    }

    /// Undoes what the primary does not have.
    fn rewind(&self, primary: &Node) -> Result<()> {
        // Until then the primary's control file tells of the timeline before its promotion.
        primary.session()?.run("CHECKPOINT")?;
        let (host, port) = (&primary.place.host, primary.place.pg_port);
        let source = format!("host={host} port={port} user=postgres dbname=postgres");
        self.keeping_own_files(|node| {
            let data = node.data().display().to_string();
            // It recovers a server that was killed by itself.
            let arguments = ["-D", &data, "--source-server", &source, "--no-sync"];
            node.account.run(node.install.program("pg_rewind"), &arguments).map(drop)
        })
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
