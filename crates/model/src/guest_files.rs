//! Files of a guest that more than one crate knows of.

/// The certificate of the authority that signs for what is intercepted.
pub const CA_FILE: &str = "/etc/ssl/certs/matchlock-ca.crt";

/// That one and all that the image trusts.
pub const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Links to [`CA_FILE`] in the folders from which distributions make their bundles are called so.
pub const CA_ANCHOR: &str = "matchlock-ca.crt";
