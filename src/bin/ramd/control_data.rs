//! What the control file says of a server, also of one that is down: `pg_controldata`.

use crate::command::Program;
use crate::daemon::Daemon;
use crate::server::Server;

/// What of it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlData {
    /// `in production`, `shut down`, `in archive recovery` ...
    pub state: String,
    /// The timeline of the latest checkpoint.
    pub timeline: u32,
    /// What initdb made up, and every copy has.
    pub system_identifier: u64,
}

impl ControlData {
    /// Of the server's data directory.
    pub fn read(daemon: &Daemon, server: &Server) -> Result<ControlData, String> {
        let program = Program::new(&server.program("pg_controldata")).untranslated();
        let text = program.arg("-D").arg(&daemon.settings.data).run(daemon)?;
        parse(&text).ok_or_else(|| "pg_controldata's output is not understood".to_owned())
    }

    /// Whether all that it wrote is in its files.
    pub fn is_shut_down(&self) -> bool {
        matches!(self.state.as_str(), "shut down" | "shut down in recovery")
    }
}

fn parse(text: &str) -> Option<ControlData> {
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim())
    };
    Some(ControlData {
        state: value("Database cluster state:")?.to_owned(),
        timeline: value("Latest checkpoint's TimeLineID:")?.parse().ok()?,
        system_identifier: value("Database system identifier:")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read() {
        let text = "pg_control version number:            1800\n\
                    Database system identifier:           7577012983246217291\n\
                    Database cluster state:               shut down in recovery\n\
                    Latest checkpoint's TimeLineID:       3\n";
        let read = parse(text).unwrap();
        assert!(read.is_shut_down());
        assert_eq!((read.timeline, read.system_identifier), (3, 7_577_012_983_246_217_291));
        assert_eq!(parse("nothing"), None);
    }
}
