//! The internet that stories are told on, looked at from its host with the distribution's own clients.

use std::{
    net::{TcpStream, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{
    internet::{Arrival, Internet, Story, tell},
    run, tool,
};

fn main() -> ExitCode {
    let stories = vec![
        Story::new("names_lead_to_servers_with_certificates", web),
        Story::new("what_arrives_is_recorded", recorded),
        Story::new("packets_to_nobody_are_seen_too", packets),
        Story::new("two_names_share_a_server", shared),
        Story::new("git_and_ssh_are_the_real_ones", programs),
        Story::new("datagrams_come_back", datagrams),
    ];
    tell(|| Ok(()), stories)
}

/// What curl prints; it trusts the root of this internet.
fn curl(internet: &Internet, arguments: &[&str]) -> Result<String> {
    let mut curl = tool("curl", "curl")?;
    run(curl.args(["-sS", "--max-time", "20", "--cacert"]).arg(internet.root()).args(arguments))
}

fn web(internet: &Internet) -> Result<()> {
    for (flag, version) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2.0")] {
        let seen = curl(internet, &[flag, "https://alias.good.test/path?x=1"])?;
        let seen: serde_json::Value = serde_json::from_str(&seen)?;
        ensure!(seen["version"] == version && seen["sni"] == "alias.good.test", "{seen}");
        ensure!(seen["target"].as_str().is_some_and(|target| target.ends_with("/path?x=1")), "{seen}");
    }
    ensure!(curl(internet, &["http://v6.good.test/bytes/10"])? == "xxxxxxxxxx");
    ensure!(curl(internet, &["https://good.test:8443/chunks"])? == "one\ntwo\nthree\n");
    ensure!(curl(internet, &["https://many.good.test/sse"])?.ends_with("data: 3\n\n"));
    ensure!(
        curl(internet, &["--compressed", "-H", "Authorization: a", "-d", "b", "https://good.test/echo/gzip"])? == "a b"
    );
    ensure!(curl(internet, &["-H", "Authorization: secret", "-r", "2-3", "https://good.test/echo/range"])? == "cr");
    // Any name is anybody's here, but only with the root.
    let mut distrustful = tool("curl", "curl")?;
    ensure!(run(distrustful.args(["-sS", "https://good.test/"])).is_err());
    Ok(())
}

fn recorded(internet: &Internet) -> Result<()> {
    curl(internet, &["-4", "-d", "body=here", "-H", "X-One: two", "https://evil.test/p"])?;
    curl(internet, &["http://93.184.217.2:8080/"])?;
    let arrived = internet.arrived();
    let request = arrived.requests().next().context("a request")?;
    ensure!((request.method.as_str(), request.host.as_str()) == ("POST", "evil.test"), "{request:?}");
    ensure!(request.header("x-one") == Some("two") && request.body == b"body=here", "{request:?}");
    ensure!(arrived.questions().any(|name| name == "evil.test."), "{arrived:?}");
    ensure!(arrived.mentions("BODY=here") && !arrived.mentions("nothing of the kind"));
    let places: Vec<_> = arrived.packets.iter().map(ToString::to_string).collect();
    ensure!(places == ["tcp 93.184.216.66:443", "udp 93.184.216.53:53"], "{places:?}");
    let own: Vec<_> = arrived.to_the_host.iter().map(ToString::to_string).collect();
    ensure!(own.contains(&"tcp 93.184.217.2:8080".to_owned()), "{own:?}");
    ensure!(internet.arrived().told.is_empty(), "told once");
    Ok(())
}

fn packets(internet: &Internet) -> Result<()> {
    let patience = Duration::from_secs(20);
    // Nobody listens there, but somebody has the address.
    ensure!(TcpStream::connect_timeout(&"10.1.2.3:4444".parse()?, patience).is_err());
    UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "169.254.169.254:9")?;
    let seen: Vec<_> = internet.arrived().packets.iter().map(ToString::to_string).collect();
    ensure!(seen == ["tcp 10.1.2.3:4444", "udp 169.254.169.254:9"], "{seen:?}");
    Ok(())
}

fn shared(internet: &Internet) -> Result<()> {
    curl(internet, &["-H", "Host: cdn.evil.test", "https://cdn.good.test/"])?;
    let arrived = internet.arrived();
    let request = arrived.requests().next().context("a request")?;
    ensure!(request.sni.as_deref() == Some("cdn.good.test") && request.host == "cdn.evil.test", "{request:?}");
    Ok(())
}

fn programs(internet: &Internet) -> Result<()> {
    let folder = internet.folder();
    let mut git = tool("git", "git")?;
    git.args(["clone", "--quiet", "https://git.good.test/project.git"]).arg(folder.join("clone"));
    run(git.env("GIT_SSL_CAINFO", internet.root()).env("HOME", folder))?;
    ensure!(std::fs::read_to_string(folder.join("clone/README"))? == "hello from git\n");
    let (key, known) = internet.ssh_key()?;
    ensure!(key.contains("PRIVATE KEY"));
    std::fs::write(folder.join("known"), known)?;
    let mut ssh = tool("ssh", "openssh-client")?;
    ssh.args(["-F", "none", "-o", "IdentitiesOnly=yes"]).arg("-i").arg(folder.join("ssh/user"));
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", folder.join("known").display()));
    ensure!(run(ssh.args(["git@shell.good.test", "something"]))? == "hello git, you said something\n");
    Ok(())
}

fn datagrams(internet: &Internet) -> Result<()> {
    for (own, server) in [("0.0.0.0:0", "93.184.216.66:443"), ("[::]:0", "[2606:2800:220:1::66]:7")] {
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.connect(server)?;
        socket.send(b"ping")?;
        let mut back = [0; 10];
        ensure!(socket.recv(&mut back)? == 4 && back.starts_with(b"ping"));
    }
    let told = internet.arrived().told;
    ensure!(told.iter().filter(|arrival| matches!(arrival, Arrival::Datagram { .. })).count() == 2, "{told:?}");
    Ok(())
}
