//! Debian's `docker-registry` on loopback, filled by `skopeo`: with or without TLS, with or without a password.

use std::{
    fmt::Write,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{OciLayout, run, tool};

/// What the registry demands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// It speaks TLS, with a certificate for `localhost` and 127.0.0.1 by an authority of its own.
    pub tls: bool,
    /// It wants a user name and a password.
    pub login: Option<(&'static str, &'static str)>,
}

/// A registry that ends with this value.
pub struct LoopbackRegistry {
    child: Child,
    dir: TempDir,
    port: u16,
    options: Options,
}

impl LoopbackRegistry {
    /// Start one on a port of the kernel's choice.
    ///
    /// # Errors
    /// A program is missing, or the registry does not come up.
    pub fn start(options: Options) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:0\n",
            dir.path().join("data").display()
        );
        if options.tls {
            make_certificates(dir.path())?;
            let file = |name: &str| dir.path().join(name).display().to_string();
            let (certificate, key) = (file("server.crt"), file("server.key"));
            writeln!(config, "  tls: {{certificate: {certificate}, key: {key}}}")?;
        }
        if let Some((user, password)) = options.login {
            let hashed = run(tool("htpasswd", "apache2-utils")?.args(["-Bbn", user, password]))?;
            std::fs::write(dir.path().join("htpasswd"), hashed)?;
            let file = dir.path().join("htpasswd");
            writeln!(config, "auth: {{htpasswd: {{realm: test, path: {}}}}}", file.display())?;
        }
        let config_file = dir.path().join("config.yml");
        std::fs::write(&config_file, config)?;
        tool("docker-registry", "docker-registry")?;
        // It ends with the test's thread, also when that is killed.
        let mut command = tool("setpriv", "util-linux")?;
        command.args(["--pdeathsig", "KILL", "docker-registry", "serve"]).arg(&config_file);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut registry = Self { child, dir, port: 0, options };
        registry.port = port_in_log(&mut registry.child)?;
        Ok(registry)
    }

    /// `localhost:<port>`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// A reference into this registry.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// The file of a blob in the registry's storage, for tests that damage it.
    #[must_use]
    pub fn blob_file(&self, hex: &str) -> PathBuf {
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// A folder of the form `<host>/ca.crt`, as in `/etc/docker/certs.d`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn certificate_dir(&self) -> Result<PathBuf> {
        let certificates = self.dir.path().join("certs.d");
        std::fs::create_dir_all(certificates.join(self.host()))?;
        std::fs::copy(self.dir.path().join("ca.crt"), certificates.join(self.host()).join("ca.crt"))?;
        Ok(certificates)
    }

    /// Push all images of a layout as `name`, exactly as they are.
    ///
    /// # Errors
    /// skopeo is missing or fails.
    pub fn push(&self, layout: &OciLayout, name: &str) -> Result<()> {
        let mut skopeo = self.skopeo()?;
        skopeo.args(["copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"]);
        if let Some((user, password)) = self.options.login {
            skopeo.arg(format!("--dest-creds={user}:{password}"));
        }
        skopeo.arg(format!("oci:{}", layout.path().display())).arg(format!("docker://{}", self.reference(name)));
        run(&mut skopeo).map(drop)
    }

    fn skopeo(&self) -> Result<Command> {
        let mut skopeo = tool("skopeo", "skopeo")?;
        // Its own folder for everything: the user's configuration is none of a test's business.
        skopeo.arg("--insecure-policy").env("HOME", self.dir.path()).env("XDG_RUNTIME_DIR", self.dir.path());
        Ok(skopeo)
    }
}

impl Drop for LoopbackRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port is in the line that says that the registry is ready.
fn port_in_log(child: &mut Child) -> Result<u16> {
    let mut log = BufReader::new(child.stderr.take().context("no log")?);
    let mut said = String::new();
    loop {
        let mut line = String::new();
        if log.read_line(&mut line)? == 0 {
            bail!("docker-registry ended: {}", said.trim());
        }
        if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            // It goes on logging, and must not block on a full pipe.
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return digits.parse().context(line);
        }
        said += &line;
    }
}

/// An authority (`ca.crt`) and a server certificate by it. Verifiers refuse an authority as a server's own.
fn make_certificates(dir: &Path) -> Result<()> {
    let openssl = |arguments: &[&str]| run(tool("openssl", "openssl")?.current_dir(dir).args(arguments)).map(drop);
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["req", "-x509", "-subj", "/CN=loopback test authority", "-days", "2"];
    openssl(&[&authority[..], &key[..], &["-keyout", "ca.key", "-out", "ca.crt"]].concat())?;
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"];
    openssl(&[&request[..], &key[..]].concat())?;
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")?;
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(&[&sign[..], &["-days", "2", "-extfile", "names", "-out", "server.crt"]].concat())
}
