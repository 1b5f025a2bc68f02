//! An answer as the client saw it.

use std::time::Instant;

use serde_json::Value;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyEnd {
    /// As its framing announced.
    Complete,
    /// The server closed the connection before.
    Closed,
    /// The server reset the connection.
    Reset,
    /// Nothing arrived within the client's patience.
    Silent,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    /// Names as sent, and values.
    pub headers: Vec<(String, String)>,
    /// The status codes of interim answers before it.
    pub interim: Vec<u16>,
    /// When it was complete.
    pub at: Instant,
}

/// A complete answer, or as much of it as arrived.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code; 0 if not even a head arrived.
    pub status: u16,
    /// Names as sent, and values.
    pub headers: Vec<(String, String)>,
    /// The status codes of interim answers before it.
    pub interim: Vec<u16>,
    /// When the head was complete.
    pub head_at: Instant,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// When its pieces arrived, and their lengths.
    pub arrivals: Vec<(Instant, usize)>,
    pub end: ReplyEnd,
}

impl Head {
    /// Parses the bytes of a head.
    pub(super) fn parse(bytes: &[u8], at: Instant) -> Head {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or("");
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("'{status_line}' is no status line"));
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Head { status, headers, interim: Vec::new(), at }
    }

    /// The first value of a header, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

impl Reply {
    pub(super) fn of(head: Head) -> Reply {
        Reply {
            status: head.status,
            headers: head.headers,
            interim: head.interim,
            head_at: head.at,
            body: Vec::new(),
            arrivals: Vec::new(),
            end: ReplyEnd::Complete,
        }
    }

    pub(super) fn without_head(end: ReplyEnd, received: Vec<u8>) -> Reply {
        Reply {
            status: 0,
            headers: Vec::new(),
            interim: Vec::new(),
            head_at: Instant::now(),
            body: received,
            arrivals: Vec::new(),
            end,
        }
    }

    /// The first value of a header, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The type and the message of an error in the API's shape.
    pub fn error(&self) -> (String, String) {
        error_parts(&self.json())
    }

    /// The server-sent events as names and data.
    pub fn events(&self) -> Vec<(String, Value)> {
        let text = self.text().replace("\r\n", "\n");
        let mut events = Vec::new();
        for block in text.split("\n\n").filter(|block| !block.is_empty()) {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let kind = field("event: ").unwrap_or("").to_owned();
            let data = field("data: ").unwrap_or("null");
            let data = serde_json::from_str(data).unwrap_or_default();
            events.push((kind, data));
        }
        events
    }

    /// The names of the events in order, without pings.
    pub fn event_names(&self) -> Vec<String> {
        let names = self.events().into_iter().map(|(name, _)| name);
        names.filter(|name| name != "ping").collect()
    }

    /// The assistant's text, from JSON or from events.
    pub fn said(&self) -> String {
        if self.header("content-type").is_some_and(|kind| kind.contains("event-stream")) {
            let events = self.events();
            let deltas = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str());
            return deltas.collect();
        }
        let message = self.json();
        let blocks = message["content"].as_array().cloned().unwrap_or_default();
        blocks.iter().filter_map(|block| block["text"].as_str()).collect()
    }

    /// Asserts that this is a complete assistant message with this text.
    #[track_caller]
    pub fn assert_said(&self, text: &str) {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.end, ReplyEnd::Complete);
        assert_eq!(self.said(), text);
    }

    /// Asserts that this is an error in the API's shape with this status and type, and returns its
    /// message.
    #[track_caller]
    pub fn assert_error(&self, status: u16, kind: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.json()["type"], "error", "{}", self.text());
        let (have, message) = self.error();
        assert_eq!(have, kind, "{message}");
        message
    }
}

/// The type and the message of an error document or event.
pub fn error_parts(error: &Value) -> (String, String) {
    let text = |name: &str| error["error"][name].as_str().unwrap_or("").to_owned();
    (text("type"), text("message"))
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(have, _)| have.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}
