//! The API and the page of ramd, as programs see them that are not ours: schemathesis asks whether
//! the API is what docs/openapi.yaml says, and Chromium opens the page.

use std::path::Path;
use std::process::Command;

use pgraft_cluster::api::Api;
use pgraft_cluster::check::{SOON, expect};
use pgraft_cluster::{Cluster, Failure, Options, Result, wait_for, with};

fn formed() -> Result<Cluster> {
    let mut cluster = Cluster::form("outside", Options { failover: true, ..Options::default() })?;
    cluster.noting_while(|cluster| {
        cluster.next_primary(None, SOON)?;
        cluster.await_streaming(1, SOON)
    })?;
    Ok(cluster)
}

/// Runs a script of `.ci` to its end.
fn script(name: &str, arguments: &[&str]) -> Result<()> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(top.join(".ci").join(name));
    let output = command.args(arguments).output();
    let output = output.map_err(Failure::while_doing(format!("run .ci/{name}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    expect(output.status.success(), || format!(".ci/{name}: {}\n{text}{errors}", output.status))
}

#[test]
fn the_api_is_as_it_is_described_and_the_page_shows_the_primary() {
    with(formed(), |cluster| {
        let _ramds = cluster.start_ramds("")?;
        for id in 1..=3 {
            wait_for("the cluster is well", SOON, || {
                let health = Api::of(cluster.node(id)).get("/api/v1/cluster/health")?;
                if health.status == 200 { Ok(Some(())) } else { Err(Failure::new(health.text)) }
            })?;
        }
        script("check-ui", &[&cluster.node(2).api_url(), "node1"])?;
        let token = cluster.node(1).token_file().display().to_string();
        script("check-openapi", &[&cluster.node(1).api_url(), &token])
    });
}
