//! What the network adds to the environment of every program in the guest. Pure.

use matchlock_model::{
    Network, NetworkMode,
    guest_files::{CA_BUNDLE, CA_FILE},
};

/// Variables that make clients trust it which do not read the image's own bundle: OpenSSL and Go, Python's requests, curl take
/// what they name in place of their own, Node beside it. TLS that is left alone is verified, too, so these have all.
const TRUSTING: [(&str, &str); 4] = [
    ("SSL_CERT_FILE", CA_BUNDLE),
    ("REQUESTS_CA_BUNDLE", CA_BUNDLE),
    ("CURL_CA_BUNDLE", CA_BUNDLE),
    ("NODE_EXTRA_CA_CERTS", CA_FILE),
];

/// The variables, the more important later: no other word of the user's is above them.
pub fn variables(network: &Network) -> impl Iterator<Item = (String, String)> {
    let intercepts = network.mode() == NetworkMode::Intercept;
    let trusting =
        TRUSTING.iter().filter(move |_| intercepts).map(|(name, file)| ((*name).to_owned(), (*file).to_owned()));
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
        SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
        REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
        CURL_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
        NODE_EXTRA_CA_CERTS=/etc/ssl/certs/matchlock-ca.crt
        API_KEY=sk-pretend
        CURL_CA_BUNDLE=odd-name
        ");
        assert_eq!(variables(&Network { no_network: true, ..network }).count(), 0);
    }
}
