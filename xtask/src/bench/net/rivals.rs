//! The servers and proxies of the bench that are not ours: nginx as origin and as proxy, and mitmproxy.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use matchlock_testkit::{run, tool};

use super::{
    authority::Certified,
    program::{Program, Says},
    world::{BESIDE, MITMPROXY_PORT, ORIGIN, ORIGIN_NAME},
};

const MITMPROXY: &str = "11.0.2";

/// What both nginx have in common. No limit on requests over a connection, for the others have none.
const COMMON: &str = "
daemon off;
master_process off;
worker_rlimit_nofile 8192;
error_log stderr notice;
events { worker_connections 4096; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    sendfile on;
    tcp_nopush on;
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;
    ssl_ecdh_curve X25519;
";

/// The server behind all proxies, of files in its folder.
pub(super) fn origin(folder: &Path, certified: &Certified) -> Result<Program> {
    let Certified { chain, key, .. } = certified;
    let server = format!(
        "access_log off;
         open_file_cache max=16;
         server {{
             listen {ORIGIN}:443 ssl backlog=4096;
             ssl_certificate {}; ssl_certificate_key {};
             root files;
         }}",
        chain.display(),
        key.display()
    );
    Ok(nginx(&folder.join("origin"), &server)?.0)
}

/// nginx in our place: TLS ends in it, and begins again towards the origin, whose certificate it verifies. It keeps a log, as we do.
/// Also says its version.
pub(super) fn proxy(folder: &Path, certified: &Certified) -> Result<(Program, String)> {
    let Certified { root, chain, key, .. } = certified;
    let server = format!(
        "access_log access.log;
         upstream origin {{ server {ORIGIN}:443; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h; }}
         server {{
             listen {BESIDE}:443 ssl backlog=4096;
             ssl_certificate {}; ssl_certificate_key {};
             client_max_body_size 0;
             location / {{
                 proxy_pass https://origin;
                 proxy_http_version 1.1;
                 proxy_set_header Connection '';
                 proxy_set_header Host $host;
                 proxy_request_buffering off;
                 proxy_max_temp_file_size 0;
                 proxy_buffers 8 64k;
                 proxy_ssl_verify on;
                 proxy_ssl_trusted_certificate {};
                 proxy_ssl_server_name on;
                 proxy_ssl_name {ORIGIN_NAME};
                 proxy_ssl_protocols TLSv1.3;
             }}
         }}",
        chain.display(),
        key.display(),
        root.display(),
    );
    nginx(&folder.join("proxy"), &server)
}

fn nginx(folder: &Path, servers: &str) -> Result<(Program, String)> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("nginx.conf"), format!("pid nginx.pid;{COMMON}{servers}\n}}\n"))?;
    let mut nginx = tool("nginx", "nginx-light")?;
    nginx.arg("-p").arg(folder).args(["-c", "nginx.conf", "-e", "stderr"]);
    // It says so when its sockets listen.
    let (program, said) = Program::start(&mut nginx, Says::Stderr, ": nginx/")?;
    let version = said.rsplit_once('/').map_or("of some version", |(_, version)| version.trim());
    Ok((program, version.to_owned()))
}

/// mitmproxy in our place, with a certificate of its own for each name. Also says its version.
pub(super) fn mitmproxy(mitmdump: &Path, folder: &Path, certified: &Certified) -> Result<(Program, String)> {
    let mut mitmdump = Command::new(mitmdump);
    mitmdump
        .arg(format!("--mode=reverse:https://{ORIGIN}:443/"))
        .args([format!("--listen-host={BESIDE}"), format!("--listen-port={MITMPROXY_PORT}")])
        .arg(format!("--certs=*={}", certified.both.display()))
        .arg(format!("--set=confdir={}", folder.join("mitmproxy").display()))
        .arg(format!("--set=ssl_verify_upstream_trusted_ca={}", certified.root.display()))
        .args(["--set=flow_detail=0", "--set=stream_large_bodies=1m", "--set=http2=false"]);
    let (program, _) = Program::start(&mut mitmdump, Says::Stdout, "listening at")?;
    Ok((program, MITMPROXY.to_owned()))
}

/// `mitmdump`, from the Python package index unless it is below `home` already.
pub(super) fn mitmdump(home: &Path) -> Result<PathBuf> {
    let environment = home.join(format!("mitmproxy-{MITMPROXY}"));
    let program = environment.join("bin/mitmdump");
    if !program.exists() {
        run(tool("python3", "python3-venv")?.args(["-m", "venv"]).arg(&environment))?;
        let mut pip = Command::new(environment.join("bin/pip"));
        run(pip.args(["install", "--quiet", &format!("mitmproxy=={MITMPROXY}")])).context("install mitmproxy")?;
    }
    Ok(program)
}
