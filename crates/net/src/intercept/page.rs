//! What a guest is told in place of a response.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::body::Relayed;
use crate::gateway::End;

/// Why a request is not carried, or could not be.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) end: End,
}

impl Refusal {
    /// Policy does not allow it, or it is stopped for what it has in it.
    pub(super) const fn forbidden(end: End) -> Self {
        Self { status: StatusCode::FORBIDDEN, end }
    }

    /// It can be understood in more than one way, or in none.
    pub(super) fn malformed(why: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, end: End::Blocked(why.into()) }
    }

    /// It has more in it than a rule lets through.
    pub(super) fn too_large(why: impl Into<String>) -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, end: End::Blocked(why.into()) }
    }

    /// The guest must not have the response.
    pub(super) fn kept_back(why: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, end: End::Blocked(why.into()) }
    }

    /// The server could not be reached, or did not answer as one does.
    pub(super) fn unreachable(why: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, end: End::Failed(why.into()) }
    }

    /// The page that says so.
    pub(super) fn page(&self) -> Response<Box<Relayed>> {
        let text = match &self.end {
            End::Denied(denied) => format!("matchlock: {denied}\n"),
            End::Blocked(why) => format!("matchlock: blocked: {why}\n"),
            End::Failed(why) => format!("matchlock: {why}\n"),
            End::Done => String::new(),
        };
        let mut page = Response::new(Relayed::page(Bytes::from(text)));
        *page.status_mut() = self.status;
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        page.headers_mut().insert(header::CONTENT_TYPE, kind);
        page
    }
}
