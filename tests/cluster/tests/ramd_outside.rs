//! The API and the page of ramd, as programs see them that are not ours: schemathesis asks whether
//! the API is what docs/openapi.yaml says, and Chromium opens the page.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgraft_cluster::api::Api;
use pgraft_cluster::check::{SOON, expect};
use pgraft_cluster::{Cluster, Failure, Options, Result, http, wait_for, with};

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

/// Passes so many questions on to a ramd (the page, and what it asks first), and then is gone.
fn pass_on(listener: &TcpListener, to: &str, most: usize) -> Result<()> {
    let failed = || Failure::while_doing("pass a question on");
    listener.set_nonblocking(true).map_err(failed())?;
    let mut asked = 0;
    while asked < most {
        let (mut stream, _) = wait_for("the page asks", SOON, || match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            accepted => Ok(Some(accepted.map_err(failed())?)),
        })?;
        stream.set_nonblocking(false).map_err(failed())?;
        // A browser opens connections that it may never use.
        stream.set_read_timeout(Some(Duration::from_secs(2))).map_err(failed())?;
        let mut lines = BufReader::new(&stream).lines();
        let Some(Ok(line)) = lines.next() else { continue };
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let Some(path) = line.split(' ').nth(1) else { continue };
        let answer = http::get(to, path)?;
        let text = format!(
            "HTTP/1.1 {} x\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{}",
            answer.status,
            answer.header("Content-Type").unwrap_or_default(),
            answer.body.len(),
            answer.body
        );
        stream.write_all(text.as_bytes()).map_err(failed())?;
        // What browsers ask for by themselves does not count.
        asked += usize::from(answer.status == 200);
    }
    Ok(())
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
        let listener = TcpListener::bind("127.0.0.1:0").map_err(Failure::while_doing("listen"))?;
        let url = listener.local_addr().map_err(Failure::while_doing("ask for its address"))?;
        let from = cluster.node(2).api_address();
        let passing_on = std::thread::spawn(move || pass_on(&listener, &from, 3));
        let shown = script("check-ui", &[&format!("http://{url}"), "node1", "--gone"]);
        passing_on.join().map_err(|_| Failure::new("the thread between panicked"))??;
        shown?;
        let token = cluster.node(1).token_file().display().to_string();
        script("check-openapi", &[&cluster.node(1).api_url(), &token])
    });
}
