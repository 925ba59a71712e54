//! A real HAProxy in front of a cluster, which asks each node's ramd who takes writes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Cluster, Failure, Node, Result};

/// Where Debian has it.
const PROGRAMS: [&str; 3] = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"];
/// In a cluster's ports those of proxies come after those of ramd's API.
const PROXY_PORTS: u16 = 24;

/// A running HAProxy. Dropped, it is killed.
#[derive(Debug)]
pub struct Haproxy {
    /// Where it takes connections for the primary, on 127.0.0.1; those for standbys on the next.
    pub port: u16,
    child: Child,
}

/// What is shipped.
const SHIPPED: &str = include_str!("../../../conf/haproxy.cfg");

/// What is shipped, with this cluster's servers and ports; the primary's first.
fn config(nodes: &[Node], port: u16) -> Result<String> {
    let mut text = SHIPPED.to_owned();
    let mut put = |from: &str, to: &str| {
        let found = text.contains(from);
        text = text.replace(from, to);
        let no = || Failure::new(format!("\"{from}\" is not in conf/haproxy.cfg"));
        found.then_some(()).ok_or_else(no)
    };
    put("bind *:5000", &format!("bind 127.0.0.1:{port}"))?;
    put("bind *:5001", &format!("bind 127.0.0.1:{}", port + 1))?;
    for node in nodes {
        let (id, api) = (node.id(), node.api_port());
        let server = format!("server db{id} {} check port {api}", node.pg_address());
        put(&format!("server db{id} db{id}:5432 check port 8008"), &server)?;
    }
    Ok(text)
}

fn program() -> Result<&'static Path> {
    let program = PROGRAMS.iter().map(Path::new).find(|path| path.exists());
    program.ok_or_else(|| {
        Failure::new("there is no haproxy on this machine: run \".ci/need-packages haproxy\"")
    })
}

/// Has HAProxy check the file that is shipped; fails with what it says. Only the names of the
/// servers are others: it looks them up.
pub fn check_shipped() -> Result<()> {
    let file = std::env::temp_dir().join(format!("pgraft-haproxy-{}.cfg", std::process::id()));
    let text = (1..=3).fold(SHIPPED.to_owned(), |text, id| {
        text.replace(&format!(" db{id}:5432 "), &format!(" 127.0.0.{id}:5432 "))
    });
    std::fs::write(&file, text).map_err(Failure::while_doing("write a file for haproxy -c"))?;
    let output = Command::new(program()?).args(["-c", "-f"]).arg(&file).output();
    let _ = std::fs::remove_file(&file); // it was written: whatever removed it before, it is gone
    let output = output.map_err(Failure::while_doing("run haproxy -c"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let well = output.status.success() && !said.contains("[WARNING]");
    if well { Ok(()) } else { Err(Failure::new(format!("haproxy -c: {said}"))) }
}

impl Haproxy {
    /// Starts one in front of all nodes.
    pub fn start(cluster: &Cluster) -> Result<Haproxy> {
        let program = program()?;
        let port = cluster.node(1).place.pg_port + PROXY_PORTS;
        let file: PathBuf = cluster.folder().join("haproxy.cfg");
        std::fs::write(&file, config(cluster.nodes(), port)?)
            .map_err(Failure::while_doing("write haproxy.cfg"))?;
        let child = Command::new(program)
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .map_err(Failure::while_doing("start haproxy"))?;
        Ok(Haproxy { port, child })
    }

    /// Its processes.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended by itself: the test has failed by then
        let _ = self.child.wait(); // its status says no more
    }
}
