//! `--add-host` and `--hostname`.

use matchlock_model::AddHost;

use crate::error::CliError;

/// `host:ip`; the address may be IPv6.
pub(crate) fn add_host(spec: &str) -> Result<AddHost, CliError> {
    let bad = |why: &str| CliError::failure(format!("invalid add-host mapping: {why} {spec:?} (expected host:ip)"));
    let (host, ip) = spec.trim().split_once(':').ok_or_else(|| bad("invalid add-host format"))?;
    let host = host.trim();
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(bad("invalid add-host hostname"));
    }
    let ip = ip.trim().trim_start_matches('[').trim_end_matches(']');
    let ip = ip.parse().map_err(|_| bad("invalid add-host ip"))?;
    Ok(AddHost { host: host.to_owned(), ip })
}

/// A host name as RFC 1123 section 2.1 has it, at most 63 characters (what Linux keeps, sethostname(2)).
pub(crate) fn hostname(name: &str) -> Result<String, CliError> {
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() <= 63 && name.split('.').all(label) {
        Ok(name.to_owned())
    } else {
        Err(CliError::failure(format!(
            "invalid hostname {name:?}: use letters, digits, '-' and '.', at most 63 characters"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families() {
        assert_eq!(add_host("db:10.0.0.1").unwrap().ip.to_string(), "10.0.0.1");
        assert_eq!(add_host("db:fd00::1").unwrap().ip.to_string(), "fd00::1");
        for bad in ["", "db", "db:", ":10.0.0.1", "a b:10.0.0.1", "db:ten", "a\nb:1.1.1.1"] {
            assert!(add_host(bad).unwrap_err().to_string().contains("invalid add-host mapping"), "{bad}");
        }
    }

    #[test]
    fn a_hostname_cannot_carry_anything_else() {
        assert!(hostname("build-1.example").is_ok());
        for bad in ["", "a b", "a\nb", "-a", "a..b", "x=1 y", &"a".repeat(64)] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
    }
}
