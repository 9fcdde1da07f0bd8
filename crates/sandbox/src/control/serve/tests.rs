//! Conversations with a real guard behind a real socket.

use matchlock_model::{Network, SecretSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::network::Egress;

/// What is answered to each of these lines.
async fn told(network: Network, lines: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("control.sock");
    let values = [("KEY".to_owned(), Value::new(b"hunter1".to_vec()).unwrap())];
    let egress = Egress::of(&network, &values.into()).unwrap();
    let secrets = Current::new(egress.as_ref().map(|egress| egress.secrets.clone()).unwrap_or_default());
    let guard = egress.map(|egress| egress.guard().unwrap());
    let _service = serve(&path, Control { guard, secrets: secrets.clone() }).unwrap();
    let mut told = Vec::new();
    for line in lines {
        let mut stream = UnixStream::from_std(socket::connect(&path).unwrap()).unwrap();
        let mut answer = String::new();
        let talked = async {
            stream.write_all(line.as_bytes()).await?;
            stream.shutdown().await?;
            stream.read_to_string(&mut answer).await
        };
        let talked: io::Result<_> = talked.await;
        told.push(talked.map_or_else(|_| "(hung up)".to_owned(), |_| answer.trim_end().to_owned()));
    }
    let sent = secrets.get().towards(&"x.com".parse().unwrap(), true).header(b"pretend-0123").unwrap();
    told.extend(sent.map(|sent| String::from_utf8(sent.to_vec()).unwrap()));
    told.join("\n")
}

#[tokio::test]
async fn an_allow_list_is_changed_and_asked_about() {
    let network = Network { allowed_hosts: vec!["x.com".to_owned(), "192.0.2.1:22".to_owned()], ..Network::default() };
    let told = told(
        network,
        &[
            "{\"allow_list_add\":{\"hosts\":[\"X.com\",\"db.x.com:5432\",\" *.y.com \"]}}\n",
            "{\"allow_list_delete\":{\"hosts\":[\"x.com\",\"z.com\"]}}\n",
            "{\"allow_list_add\":{\"hosts\":[\"z.com\",\"https://x\"]}}\n",
            "{\"allow_list_delete\":{\"hosts\":[\"*.y.com\",\"192.0.2.1:22\",\"db.x.com:5432\"]}}\n",
            "{\"explain\":{\"url\":\"https://x.com/\"}}\n",
            "{\"explain\":{\"url\":\"gopher://x.com/\"}}\n",
        ],
    )
    .await;
    insta::assert_snapshot!(told, @r#"
    {"allow_list":{"changed":["db.x.com:5432","*.y.com"],"allowed_hosts":["x.com","192.0.2.1:22","db.x.com:5432","*.y.com"]}}
    {"allow_list":{"changed":["x.com"],"allowed_hosts":["192.0.2.1:22","db.x.com:5432","*.y.com"]}}
    {"failed":"invalid allow-list host: \"https://x\": a host is wanted, not a URL"}
    {"allow_list":{"changed":["*.y.com","192.0.2.1:22","db.x.com:5432"],"allowed_hosts":[]}}
    {"explained":{"allowed":false,"lines":["destination  x.com, TCP port 443","name         denied: host not in allowlist (--allow-host x.com would allow it)","answer       denied: the name is not resolved"]}}
    {"failed":"which port gopher:// uses is not known here: add it to the host"}
    "#);
}

#[tokio::test]
async fn a_secret_is_given_another_value() {
    let secrets = [
        "{\"secret_set\":{\"name\":\"KEY\",\"value\":\"hunter2\"}}\n",
        "{\"secret_set\":{\"name\":\"NONE\",\"value\":\"hunter2\"}}\n",
        "{\"secret_set\":{\"name\":\"KEY\",\"value\":\"\"}}\n",
    ];
    let key =
        SecretSpec { placeholder: "pretend-0123".to_owned(), hosts: vec!["x.com".to_owned()], ..SecretSpec::default() };
    let network = Network { secrets: [("KEY".to_owned(), key)].into(), ..Network::default() };
    let told = told(network, &secrets).await;
    insta::assert_snapshot!(told, @r#"
    "done"
    {"failed":"the sandbox was started without a secret NONE"}
    {"failed":"the value of a secret has 1 to 16384 bytes and no line breaks or other control characters"}
    hunter2
    "#);
}

#[tokio::test]
async fn what_there_is_nothing_to_change_of() {
    let requests = ["{\"allow_list_add\":{\"hosts\":[\"x.com\"]}}\n", "{\"explain\":{\"url\":\"127.0.0.1:22\"}}\n"];
    let open = told(Network::default(), &requests).await;
    let none = told(Network { no_network: true, ..Network::default() }, &requests).await;
    insta::assert_snapshot!(format!("{open}\n{none}"), @r#"
    {"failed":"allow-list updates unavailable: sandbox was started without network interception"}
    {"explained":{"allowed":false,"lines":["destination  127.0.0.1, TCP port 22","127.0.0.1    denied: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)","answer       denied"]}}
    {"failed":"allow-list updates unavailable: sandbox was started without network interception"}
    {"failed":"the sandbox has no network: nothing is allowed"}
    "#);
}

#[tokio::test]
async fn what_is_no_request() {
    let endless = "x".repeat(200 * 1024);
    let told =
        told(Network::default(), &["\n", "{}\n", "{\"reboot\":{}}\n", "{\"explain\":{\"url\":\"x", &endless]).await;
    insta::assert_snapshot!(told, @r#"
    {"failed":"not understood: EOF while parsing a value at line 2 column 0"}
    {"failed":"not understood: expected value at line 1 column 2"}
    {"failed":"not understood: unknown variant `reboot`, expected one of `allow_list_add`, `allow_list_delete`, `secret_set`, `explain` at line 1 column 9"}
    {"failed":"not understood: unexpected end of file"}
    (hung up)
    "#);
}

/// For a service to notice that it has ended. Shorter than a client may take.
const END_DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

#[tokio::test]
async fn whoever_is_being_served_when_it_ends_is_hung_up_on() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("control.sock");
    let service = serve(&path, Control::default()).unwrap();
    let connect = || UnixStream::from_std(socket::connect(&path).unwrap()).unwrap();
    let (mut slow, mut quick) = (connect(), connect());
    slow.write_all(b"{\"secret_set\":").await.unwrap();
    // They are accepted in their order, so the slow one is being served when the other has its answer.
    quick.write_all(b"{}\n").await.unwrap();
    let mut answer = String::new();
    quick.read_to_string(&mut answer).await.unwrap();
    drop(service);
    let end = timeout(END_DEADLINE, slow.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
}
