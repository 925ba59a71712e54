//! Asks the API of a node's ramd, as a load balancer or a person would.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::{API_TOKEN, Failure, Node, Result};

/// An answer of the API.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body; null if it is no JSON.
    pub body: Value,
    /// The same as text.
    pub text: String,
}

/// A client that keeps its connections, as load balancers do not; cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    agent: Agent,
    url: String,
}

impl Api {
    /// Of the ramd beside this node.
    pub fn of(node: &Node) -> Api {
        Api::at(&node.api_url(), Duration::from_secs(60))
    }

    /// At a URL, with a deadline for each answer.
    pub fn at(url: &str, at_most: Duration) -> Api {
        let agent = Agent::config_builder()
            .timeout_global(Some(at_most))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        Api { agent, url: url.to_owned() }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.get_with(path, None)
    }

    /// GET, with a token.
    pub fn get_with(&self, path: &str, token: Option<&str>) -> Result<Answer> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        answer(request.call(), path)
    }

    /// The status alone, of a HEAD or OPTIONS as well.
    pub fn status(&self, method: &str, path: &str) -> Result<Answer> {
        let url = format!("{}{path}", self.url);
        let response = match method {
            "HEAD" => self.agent.head(url).call(),
            "OPTIONS" => self.agent.options(url).call(),
            _ => self.agent.get(url).call(),
        };
        answer(response, path)
    }

    /// POST, with the token of the tests.
    pub fn post(&self, path: &str, body: &str) -> Result<Answer> {
        self.post_with(path, body, Some(API_TOKEN))
    }

    /// POST, with another token, or none.
    pub fn post_with(&self, path: &str, body: &str, token: Option<&str>) -> Result<Answer> {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        answer(request.send(body), path)
    }
}

fn answer(
    response: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    path: &str,
) -> Result<Answer> {
    let doing = || Failure::while_doing(format!("ask for {path}"));
    let mut response = response.map_err(doing())?;
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().map_err(doing())?;
    Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or_default(), text })
}
