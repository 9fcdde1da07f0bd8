//! What follows from a specification, and what makes no sense.

use std::net::Ipv4Addr;

use matchlock_model::AddHost;
use matchlock_net::policy::{Decision, Destination, Host, Protocol};

use super::*;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn key(hosts: &[&str]) -> BTreeMap<String, SecretSpec> {
    let spec = SecretSpec { placeholder: "pretend-0123".to_owned(), hosts: words(hosts), ..SecretSpec::default() };
    [("KEY".to_owned(), spec)].into()
}

fn values() -> SecretValues {
    [("KEY".to_owned(), Value::new(b"hunter2".to_vec()).unwrap())].into()
}

fn egress(network: &Network) -> Egress {
    Egress::of(network, &values()).unwrap().unwrap()
}

fn decision(egress: &Egress, name: Option<&str>, address: Ipv4Addr, port: u16) -> Decision {
    let name: Option<Name> = name.map(|name| name.parse().unwrap());
    let destination = Destination { name: name.as_ref(), address: address.into(), port, protocol: Protocol::Tcp };
    egress.policy.connect(&destination)
}

#[test]
fn nothing_said_is_an_open_network_and_the_hosts_resolvers() {
    let open = egress(&Network::default());
    assert_eq!((open.policy.mode, open.servers), (Mode::Open, Servers::Host));
    assert!(Egress::of(&Network { no_network: true, ..Network::default() }, &values()).unwrap().is_none());
    let servers = vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()];
    let own = egress(&Network { dns_servers: servers, ..Network::default() });
    let asked = ["9.9.9.9:53", "[2620:fe::fe]:53"].map(|server| server.parse().unwrap());
    assert_eq!(own.servers, Servers::These(asked.to_vec()));
}

#[test]
fn a_private_service_by_a_name_of_the_users() {
    let network = Network {
        allowed_hosts: words(&["my-service"]),
        allowed_private_hosts: words(&["192.168.1.100"]),
        add_hosts: vec![AddHost { host: "my-service".to_owned(), ip: "192.168.1.100".parse().unwrap() }],
        ..Network::default()
    };
    let service = egress(&network);
    let at = Ipv4Addr::new(192, 168, 1, 100);
    assert!(decision(&service, Some("my-service"), at, 443).is_allowed());
    assert!(!decision(&service, Some("my-service"), at, 22).is_allowed());
    assert!(!decision(&service, Some("my-service"), Ipv4Addr::new(192, 168, 1, 101), 443).is_allowed());
    let closed = egress(&Network { allowed_private_hosts: Vec::new(), ..network });
    assert!(!decision(&closed, Some("my-service"), at, 443).is_allowed());
}

#[test]
fn whom_a_secret_is_for_is_allowed() {
    let network = Network { secrets: key(&["api.x.com", "*.y.com"]), ..Network::default() };
    let sealed = egress(&network);
    let at = Ipv4Addr::new(1, 2, 3, 4);
    assert_eq!(sealed.policy.mode, Mode::Intercept);
    assert!(decision(&sealed, Some("api.x.com"), at, 443).is_allowed());
    assert!(decision(&sealed, Some("a.y.com"), at, 443).is_allowed());
    let other = decision(&sealed, Some("z.com"), at, 443);
    assert_eq!(other.denied().unwrap().reason(), "host not in allowlist");
    let host: Host = "api.x.com".parse().unwrap();
    let sent = sealed.secrets.towards(&host, true).header(b"Bearer pretend-0123").unwrap().unwrap();
    assert_eq!(*sent, b"Bearer hunter2");
    assert!(!format!("{sealed:?}").contains("hunter2"));
}

#[test]
fn what_makes_no_sense() {
    let seal = || Network { intercept: true, ..Network::default() };
    let wrong = [
        Network { allowed_hosts: words(&["https://x.com"]), ..seal() },
        Network { allowed_hosts: words(&[""]), ..Network::default() },
        Network { allowed_private_hosts: words(&["10.0.0.5:80"]), ..seal() },
        Network { tls_passthrough: words(&["a b"]), ..seal() },
        Network { tls_passthrough: words(&["x.com"]), ..Network::default() },
        Network { tls_passthrough: words(&["*.x.com"]), secrets: key(&["api.x.com"]), ..seal() },
        Network { tls_passthrough: words(&["*.x.com"]), secrets: key(&["*.x.com"]), ..seal() },
        Network { add_hosts: vec![AddHost { host: "a/b".to_owned(), ip: "10.0.0.1".parse().unwrap() }], ..seal() },
        Network { mtu: Some(500), ..seal() },
        Network { secrets: key(&[]), ..seal() },
        Network { secrets: key(&["x y"]), ..seal() },
        Network { secrets: key(&["x.com:8443"]), ..seal() },
        Network { secrets: key(&["10.0.0.0/8"]), ..seal() },
        Network { secrets: [("A B".to_owned(), SecretSpec::default())].into(), ..seal() },
        Network { secrets: [("NONE".to_owned(), key(&["x.com"])["KEY"].clone())].into(), ..seal() },
        Network {
            secrets: [("KEY".to_owned(), SecretSpec { hosts: words(&["x.com"]), ..SecretSpec::default() })].into(),
            ..seal()
        },
    ];
    let told: Vec<_> = wrong.iter().map(|network| Egress::of(network, &values()).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    invalid allowed host "https://x.com": a host is wanted, not a URL
    invalid allowed host "": a host name cannot be empty
    invalid private host "10.0.0.5:80": whom a private address is allowed to is said without a port; --allow-host says the ports
    invalid tls-passthrough host "a b": ' ' cannot be part of a host name
    tls-passthrough is about allowed hosts: say which are allowed
    tls-passthrough *.x.com: secret KEY is for it, and cannot be put into TLS that is left alone
    tls-passthrough *.x.com: secret KEY is for it, and cannot be put into TLS that is left alone
    invalid add-host mapping: invalid add-host hostname "a/b": '/' cannot be part of a host name
    MTU must be between 576 and 65521, got 500
    secret KEY: no hosts
    secret KEY: host "x y": ' ' cannot be part of a host name
    secret KEY: host "x.com:8443": whom a secret is for is said without a port; allowed hosts say the ports
    secret KEY: it is for names: give 10.0.0.0/8 one with add-host
    secret "A B": its name becomes that of a variable, so it has no spaces, control characters or =
    secret NONE: no value
    secret KEY: a placeholder has 8 to 16384 printable ASCII characters and no spaces
    "#);
}
