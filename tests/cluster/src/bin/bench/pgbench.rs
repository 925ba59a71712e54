//! pgbench, run against one server for some seconds.

use std::path::Path;

use pgraft_cluster::{Account, Cluster, Failure, Node, Result};

/// A server that hangs must not hang the benchmark: pgbench is ended this long after its time.
const GRACE_SECONDS: u32 = 30;

/// pgbench of the cluster's own Postgres, run as the servers' user.
pub struct Pgbench {
    program: String,
    port: String,
    account: Account,
}

impl Pgbench {
    /// For that server.
    pub fn on(cluster: &Cluster, node: &Node) -> Result<Pgbench> {
        Ok(Pgbench {
            program: cluster.install().program("pgbench").display().to_string(),
            port: node.place.pg_port.to_string(),
            account: Account::choose()?,
        })
    }

    fn run(&self, at_most_seconds: u32, arguments: &[&str]) -> Result<String> {
        let at_most = at_most_seconds.to_string();
        let mut all = vec![at_most.as_str(), &self.program];
        all.extend(["-h", "127.0.0.1", "-p", &self.port, "-U", "postgres"]);
        all.extend(arguments);
        all.push("postgres");
        self.account.run("/usr/bin/timeout", &all)
    }

    /// Makes the tables of TPC-B.
    pub fn initialize(&self, scale: u32) -> Result<()> {
        self.run(120, &["--initialize", "--quiet", "-s", &scale.to_string()]).map(drop)
    }

    /// Transactions per second of TPC-B. pgbench vacuums the small tables first.
    pub fn tpcb(&self, clients: u32, seconds: u32) -> Result<f64> {
        self.tps(clients, seconds, &[])
    }

    /// Transactions per second of the statement in that file, with one client.
    pub fn statement(&self, file: &Path, seconds: u32) -> Result<f64> {
        self.tps(1, seconds, &["--no-vacuum", "-f", &file.display().to_string()])
    }

    /// Transactions per second of the statement in that file, prepared. The time that each took
    /// goes to files whose names begin with `prefix`, where the servers' user can write.
    pub fn latencies(&self, file: &Path, clients: u32, seconds: u32, prefix: &Path) -> Result<f64> {
        let prefix = format!("--log-prefix={}", prefix.display());
        let file = file.display().to_string();
        // One thread for all clients: more would only take turns on the servers' cores.
        let more = ["--no-vacuum", "--log", &prefix, "-f", &file, "-j", "1"];
        self.tps(clients, seconds, &more)
    }

    fn tps(&self, clients: u32, seconds: u32, more: &[&str]) -> Result<f64> {
        let (clients, time) = (clients.to_string(), seconds.to_string());
        let ours = ["-M", "prepared", "-c", &clients, "-j", &clients, "-T", &time];
        let output = self.run(seconds + GRACE_SECONDS, &[&ours, more].concat())?;
        let tps = output.lines().find_map(|line| line.strip_prefix("tps = "));
        tps.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| Failure::new(format!("pgbench printed no tps: {output}")))
    }
}
