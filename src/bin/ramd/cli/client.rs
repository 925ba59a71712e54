//! Asks the first of several nodes that answers.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

use super::{Exit, Reach, Trouble};

/// A longer answer is none of ramd's.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// See the file's head.
#[derive(Clone, Debug)]
pub struct Client {
    urls: Vec<String>,
    token: Option<String>,
    agent: Agent,
}

/// What a node said.
#[derive(Debug)]
pub struct Answer {
    /// Which node.
    pub url: String,
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Value,
}

impl Client {
    /// Of what was given on the command line.
    pub fn new(reach: &Reach) -> Result<Client, Trouble> {
        let mut urls = Vec::new();
        for url in &reach.url {
            let url = url.trim().trim_end_matches('/');
            let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
            match full.strip_prefix("http://") {
                Some(rest) if !rest.is_empty() => urls.push(full),
                _ => {
                    let message = format!("\"{url}\" is no URL of an API: http://host:port");
                    return Err(Trouble::new(Exit::Usage, message));
                }
            }
        }
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(reach.timeout)))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .into();
        Ok(Client { urls, token: token(reach)?, agent })
    }

    /// The same, asking this node only.
    pub fn at(&self, url: &str) -> Client {
        Client { urls: vec![url.to_owned()], ..self.clone() }
    }

    /// Asks for what everybody may know, and for what the token opens.
    pub fn get(&self, path: &str) -> Result<Answer, Trouble> {
        self.first(path, false, |url| {
            let mut request = self.agent.get(url);
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            request.call()
        })
    }

    /// Asks for a change. A node that cannot see to it is no reason not to ask the next one.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer, Trouble> {
        let body = body.to_string();
        self.first(path, true, |url| {
            let mut request = self.agent.post(url).header("Content-Type", "application/json");
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            request.send(&body)
        })
    }

    fn first(
        &self,
        path: &str,
        is_change: bool,
        ask: impl Fn(&str) -> Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, Trouble> {
        let mut said = Vec::new();
        let mut unable = None;
        for url in &self.urls {
            match ask(&format!("{url}{path}")).map(|response| read(url, response)) {
                Ok(Ok(answer)) if answer.status == 503 && answer.is_unable() => {
                    unable.get_or_insert(answer);
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(why)) => said.push(format!("{url}: {why}")),
                // A change may have been begun there: to ask another node could do it twice.
                Err(error) if is_change && !never_arrived(&error) => {
                    let message = format!("{url}: {error}; the outcome is not known");
                    return Err(Trouble::new(Exit::Unreachable, message));
                }
                Err(error) => said.push(format!("{url}: {error}")),
            }
        }
        let nobody =
            || Trouble::new(Exit::Unreachable, format!("no ramd answers: {}", said.join("; ")));
        unable.ok_or_else(nobody)
    }
}

/// Whether it is certain that the question did not reach anybody.
fn never_arrived(error: &ureq::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match error {
        ureq::Error::Io(error) => {
            matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        }
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed => true,
        _ => false,
    }
}

impl Answer {
    /// Whether that node cannot do it now, and another may.
    fn is_unable(&self) -> bool {
        matches!(self.body["data"]["reason"].as_str(), Some("unknown" | "no_server" | "busy"))
    }

    /// What it says, with what to do.
    pub fn message(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let message = text(&self.body["message"]);
        match text(&self.body["data"]["hint"]).as_str() {
            "" => message,
            hint => format!("{message}\nhint: {hint}"),
        }
    }
}

fn read(url: &str, mut response: Response<ureq::Body>) -> Result<Answer, String> {
    let status = response.status().as_u16();
    let text = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string();
    let text = text.map_err(|error| error.to_string())?;
    let body = serde_json::from_str(&text)
        .map_err(|_| format!("it answers, and not as a ramd: status {status}"))?;
    Ok(Answer { url: url.to_owned(), status, body })
}

/// The token, from where one may keep it. Never from the command line, which all users see.
fn token(reach: &Reach) -> Result<Option<String>, Trouble> {
    let token = match &reach.token_file {
        Some(file) => Some(fs::read_to_string(file).map_err(|error| {
            let message = format!("could not read \"{}\": {error}", file.display());
            Trouble::new(Exit::Usage, message)
        })?),
        None => std::env::var("PGRAFT_TOKEN").ok(),
    };
    let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Trouble::new(Exit::Usage, "the token has characters that no token has"));
    }
    Ok(token)
}
