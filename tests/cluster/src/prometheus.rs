//! A real Prometheus, and its `promtool`: the machine's, or Debian's (`.ci/fetch-prometheus`).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::account::checkout;
use crate::{Failure, Result, http, wait_for};

/// It reads its configuration and opens its port.
const START_AT_MOST: Duration = Duration::from_secs(60);

fn program(name: &str) -> Result<PathBuf> {
    let doing = "run .ci/fetch-prometheus";
    let fetched = Command::new(checkout().join(".ci/fetch-prometheus"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Failure::while_doing(doing))?;
    if !fetched.status.success() {
        return Err(Failure::new(format!("could not {doing}: see above")));
    }
    Ok(Path::new(String::from_utf8_lossy(&fetched.stdout).trim()).join(name))
}

/// Runs `promtool` with this as its input; fails with what it says unless it is content.
pub fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    let doing = format!("run promtool {}", arguments.join(" "));
    let failed = || Failure::while_doing(doing.clone());
    let mut child = Command::new(program("promtool")?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    // It says nothing before it has read all of it, so this cannot wait for ever. One that reads
    // none closes it.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed())?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    // What it finds in metrics that could be better is said without a failure.
    let content = output.status.success() && (input.is_empty() || said.trim().is_empty());
    match (content, written) {
        (true, None | Some(Ok(()))) => Ok(()),
        (true, Some(Err(error))) => Err(failed()(error)),
        (false, _) => Err(Failure::new(format!("promtool {}: {said}", arguments.join(" ")))),
    }
}

/// A server, ended when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: String,
}

impl Prometheus {
    /// Starts one with its files in this folder, on a port of this machine.
    pub fn start(folder: &Path, port: u16, configuration: &str) -> Result<Prometheus> {
        fs::create_dir_all(folder).map_err(Failure::while_doing("make a folder"))?;
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration).map_err(Failure::while_doing("write prometheus.yml"))?;
        let log = File::create(folder.join("prometheus.log"))
            .map_err(Failure::while_doing("make prometheus.log"))?;
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(program("prometheus")?)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(Failure::while_doing("start prometheus"))?;
        let prometheus = Prometheus { child, address };
        wait_for("Prometheus answers", START_AT_MOST, || {
            let answer = http::get(&prometheus.address, "/-/ready")?;
            Ok((answer.status == 200).then_some(()))
        })
        .map_err(|failure| {
            let log = fs::read_to_string(folder.join("prometheus.log")).unwrap_or_default();
            Failure::new(format!("{failure}\n{log}"))
        })?;
        Ok(prometheus)
    }

    /// The one number that an expression comes to now; `None`: to none, or to several.
    pub fn number(&self, expression: &str) -> Result<Option<f64>> {
        let body = self.ask(expression)?;
        let values: Vec<&str> = body.split("\"value\":[").skip(1).collect();
        let [value] = values[..] else { return Ok(None) };
        // A time, and the number as a text.
        Ok(value.split('"').nth(1).and_then(|number| number.parse().ok()))
    }

    /// Whether it understands an expression.
    pub fn check(&self, expression: &str) -> Result<()> {
        self.ask(expression).map(|_| ())
    }

    fn ask(&self, expression: &str) -> Result<String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = http::get(&self.address, &format!("/api/v1/query?query={encoded}"))?;
        match answer.status {
            200 => Ok(answer.body),
            _ => Err(Failure::new(format!("{expression}: {}", answer.body))),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It has nothing that would be missed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
