//! What the network adds to the environment of every program in the guest. Pure.

use matchlock_model::{Network, NetworkMode};

/// Where the guest has the certificate of the authority that signs for what is intercepted.
pub const CA_FILE: &str = "/etc/ssl/certs/matchlock-ca.crt";

/// Variables that make clients trust it which do not read the image's own bundle: OpenSSL and Go, Python's requests, curl,
/// Node.
const TRUSTING: [&str; 4] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];

/// The variables, the more important later: no other word of the user's is above them.
pub fn variables(network: &Network) -> impl Iterator<Item = (String, String)> {
    let intercepts = network.mode() == NetworkMode::Intercept;
    let trusting = TRUSTING.iter().filter(move |_| intercepts).map(|name| ((*name).to_owned(), CA_FILE.to_owned()));
    let secrets = network.secrets.iter().filter(move |_| intercepts);
    trusting.chain(secrets.map(|(name, secret)| (name.clone(), secret.placeholder.clone())))
}

#[cfg(test)]
mod tests {
    use matchlock_model::SecretSpec;

    use super::*;

    #[test]
    fn placeholders_are_above_all_and_an_open_network_adds_nothing() {
        assert_eq!(variables(&Network::default()).count(), 0);
        let secret = |placeholder: &str| SecretSpec { placeholder: placeholder.to_owned(), ..SecretSpec::default() };
        let secrets = [("API_KEY".to_owned(), secret("sk-pretend")), ("CURL_CA_BUNDLE".to_owned(), secret("odd-name"))];
        let network = Network { secrets: secrets.into(), ..Network::default() };
        let lines: Vec<_> = variables(&network).map(|(name, value)| format!("{name}={value}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        SSL_CERT_FILE=/etc/ssl/certs/matchlock-ca.crt
        REQUESTS_CA_BUNDLE=/etc/ssl/certs/matchlock-ca.crt
        CURL_CA_BUNDLE=/etc/ssl/certs/matchlock-ca.crt
        NODE_EXTRA_CA_CERTS=/etc/ssl/certs/matchlock-ca.crt
        API_KEY=sk-pretend
        CURL_CA_BUNDLE=odd-name
        ");
        assert_eq!(variables(&Network { no_network: true, ..network }).count(), 0);
    }
}
