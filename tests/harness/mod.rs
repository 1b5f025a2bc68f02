//! What all tests of the running program use: a home directory, the program itself, and a client
//! that sees every byte.

pub mod client;
pub mod home;
pub mod proxy;
pub mod reply;

use std::time::{Duration, Instant};

pub use client::{Ask, Client, Piece};
pub use home::{Home, Ran, api_key, oauth, provider};
pub use proxy::Proxy;
pub use reply::{Reply, ReplyEnd};
pub use serde_json::{Value, json};

/// How long a test waits for something that should happen at once. Generous, since the machine may
/// be loaded.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `ready` until it returns something; panics with `what` if it does not within [`PATIENCE`].
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A small request for a message.
pub fn hello() -> Value {
    json!({
        "model": "claude-sonnet-4-5-20250929",
        "max_tokens": 256,
        "messages": [{"role": "user", "content": "Hello"}],
    })
}

/// The same as a streaming request.
pub fn hello_stream() -> Value {
    let mut body = hello();
    body["stream"] = json!(true);
    body
}
