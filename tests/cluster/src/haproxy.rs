//! A real HAProxy in front of a cluster, which asks each node's ramd who takes writes.

use std::fmt::Write;
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
    /// Where it takes connections for the primary, on 127.0.0.1.
    pub port: u16,
    child: Child,
}

/// docs/operations/haproxy.md, with this cluster's ports.
fn config(nodes: &[Node], port: u16) -> String {
    let mut text = format!(
        "global\n    maxconn 256\n\
         defaults\n    mode tcp\n    retries 2\n    timeout connect 2s\n    \
         timeout client 10m\n    \
         timeout server 10m\n    timeout check 1s\n\
         listen primary\n    bind 127.0.0.1:{port}\n    option httpchk OPTIONS /primary\n    \
         http-check expect status 200\n    default-server inter 200ms fastinter 100ms fall 1 \
         rise 1 on-marked-down shutdown-sessions\n",
    );
    for node in nodes {
        let (id, api) = (node.id(), node.api_port());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    server node{id} {} check port {api}", node.pg_address());
    }
    text
}

impl Haproxy {
    /// Starts one in front of all nodes.
    pub fn start(cluster: &Cluster) -> Result<Haproxy> {
        let program = PROGRAMS.iter().map(Path::new).find(|path| path.exists());
        let program = program.ok_or_else(|| {
            Failure::new("there is no haproxy on this machine: run \".ci/need-packages haproxy\"")
        })?;
        let port = cluster.node(1).place.pg_port + PROXY_PORTS;
        let file: PathBuf = cluster.folder().join("haproxy.cfg");
        std::fs::write(&file, config(cluster.nodes(), port))
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
