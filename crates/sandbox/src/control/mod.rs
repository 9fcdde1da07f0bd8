//! `control.sock`: changes of a running sandbox's network, and questions about it.
//!
//! Beside `exec.sock`, for the same user only. Each connection is one [`Request`] and one [`Answer`], each a line of JSON; what is
//! longer or slower than its bound is given up. [`serve`] works in the supervisor, [`ask`] is for other processes. Changes are the
//! supervisor's memory only: the sandbox's record stays what was asked for at the start.

mod ask;
mod line;
mod message;
mod serve;

use std::time::Duration;

pub use self::{
    ask::{ControlError, ask},
    message::{Answer, Request},
    serve::{Control, Service, serve},
};

/// Bytes of a line: a secret's value at its longest, all of it escaped.
const MAX_LINE: u64 = 128 * 1024;

/// How long a client may take to say what it wants, and to take the answer.
const CLIENT_DEADLINE: Duration = Duration::from_secs(10);

/// How long a supervisor may take to answer: resolvers may be asked for that, twice each.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);

/// Clients that are served at once; others wait.
const MAX_CLIENTS: usize = 16;
