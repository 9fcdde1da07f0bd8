//! The internet's sshd: Debian's own, for `git@shell.good.test`, who may only be told who it is.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};

use crate::{run, tool};

/// Its keys.
#[derive(Debug)]
pub(super) struct Shell(PathBuf);

/// What starts it; to be done in the internet's namespace, by a thread that lives as long.
pub(super) struct Starter(PathBuf);

impl Shell {
    /// Make keys and configuration in a folder.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        for key in ["host", "user"] {
            let mut keygen = tool("ssh-keygen", "openssh-client")?;
            run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key)))?;
        }
        let file = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             ForceCommand echo \"hello $USER, you said $SSH_ORIGINAL_COMMAND\"\n",
            file("host"),
            file("user.pub"),
        );
        fs::write(folder.join("config"), config)?;
        fs::write(folder.join("passwd"), "git:x:1000:1000::/:/bin/sh\nsshd:x:1001:1001::/:/usr/sbin/nologin\n")?;
        Ok(Self(folder.to_owned()))
    }

    /// The user's private key, and what `known_hosts` says of the server.
    pub(super) fn key(&self) -> Result<(String, String)> {
        let host = fs::read_to_string(self.0.join("host.pub"))?;
        Ok((fs::read_to_string(self.0.join("user"))?, format!("shell.good.test {host}")))
    }

    pub(super) fn starter(&self) -> Starter {
        Starter(self.0.clone())
    }
}

impl Starter {
    /// Start it, and wait until it listens. It runs as a user without rights, who is the one of its `passwd`: as root, it would
    /// want to become others, which whoever is root of a user namespace with one user in it cannot.
    pub(super) fn start(self) -> Result<()> {
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
        let sshd = tool("sshd", "openssh-server")?.get_program().to_owned();
        let script = "mount --bind passwd /etc/passwd && exec unshare --user --map-user=1000 --map-group=1000 \
                      setpriv --pdeathsig KILL \"$0\" -D -e -f config";
        let mut shell = tool("unshare", "util-linux")?;
        shell.args(["--mount", "sh", "-c", script]).arg(sshd).current_dir(&self.0);
        let mut shell = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(shell.stderr.take().context("piped")?);
        let mut said = String::new();
        while !said.contains("Server listening on :: ") {
            ensure!(log.read_line(&mut said)? > 0, "sshd ended: {}", said.trim());
        }
        // It goes on logging, and must not block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(())
    }
}
