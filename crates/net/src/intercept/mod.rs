//! Connections whose TLS ends here.
//!
//! [`Authority`] signs for the names that policy has allowed; asked for others, it would mint for whatever a guest makes up.

mod authority;

pub use authority::{Authority, AuthorityError, CACHED_LEAVES};
