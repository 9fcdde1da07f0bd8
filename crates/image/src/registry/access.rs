//! How registries may be reached: credentials, certificates, proxies. Made once, by whoever may read the environment.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest silence on the wire before a transfer counts as broken.
const SILENCE: Duration = Duration::from_secs(30);
/// The pause before a second try.
const PAUSE: Duration = Duration::from_millis(400);

/// The machine's conventions for reaching registries.
#[derive(Clone, Debug)]
pub struct RegistryAccess {
    /// Files in the format of Docker's `config.json`; the first with an answer wins.
    pub auth_files: Vec<PathBuf>,
    /// Folders that hold `<host>[:<port>]/*.crt`: authorities trusted for that registry.
    pub certificate_dirs: Vec<PathBuf>,
    /// Proxy for `http:` URLs.
    pub http_proxy: Option<String>,
    /// Proxy for `https:` URLs.
    pub https_proxy: Option<String>,
    /// Hosts that are reached without a proxy, comma-separated.
    pub no_proxy: Option<String>,
    /// Longest silence on the wire before a transfer counts as broken.
    pub silence: Duration,
    /// The pause before a second try; it doubles with every further one.
    pub pause: Duration,
}

impl RegistryAccess {
    /// No credentials, no proxies, no authorities but the host's.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            auth_files: Vec::new(),
            certificate_dirs: Vec::new(),
            http_proxy: None,
            https_proxy: None,
            no_proxy: None,
            silence: SILENCE,
            pause: PAUSE,
        }
    }

    /// What Docker and Podman would use for the user whose home folder is `home`; `variable` reads the environment.
    #[must_use]
    pub fn conventional(home: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |names: [&str; 2]| {
            names.iter().find_map(|name| variable(name)?.into_string().ok()).filter(|value| !value.is_empty())
        };
        let docker = path("DOCKER_CONFIG").unwrap_or_else(|| home.join(".docker"));
        let mut auth_files = vec![docker.join("config.json")];
        match path("REGISTRY_AUTH_FILE") {
            Some(file) => auth_files.push(file),
            None => auth_files.extend(path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"))),
        }
        auth_files.push(home.join(".config/containers/auth.json"));
        Self {
            auth_files,
            certificate_dirs: vec![
                home.join(".config/containers/certs.d"),
                PathBuf::from("/etc/containers/certs.d"),
                PathBuf::from("/etc/docker/certs.d"),
            ],
            http_proxy: text(["http_proxy", "HTTP_PROXY"]),
            https_proxy: text(["https_proxy", "HTTPS_PROXY"]),
            no_proxy: text(["no_proxy", "NO_PROXY"]),
            silence: SILENCE,
            pause: PAUSE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_move_the_files() {
        let variable = |name: &str| match name {
            "DOCKER_CONFIG" => Some(OsString::from("/cfg")),
            "XDG_RUNTIME_DIR" => Some(OsString::from("/run/user/7")),
            "HTTPS_PROXY" => Some(OsString::from("http://proxy:3128")),
            _ => None,
        };
        let access = RegistryAccess::conventional(Path::new("/home/u"), variable);
        let files: Vec<String> = access.auth_files.iter().map(|file| file.display().to_string()).collect();
        insta::assert_snapshot!(files.join("\n"), @r"
        /cfg/config.json
        /run/user/7/containers/auth.json
        /home/u/.config/containers/auth.json
        ");
        assert_eq!(access.https_proxy.as_deref(), Some("http://proxy:3128"));
        let plain = RegistryAccess::conventional(Path::new("/home/u"), |_| None);
        assert_eq!(plain.auth_files[0], Path::new("/home/u/.docker/config.json"));
    }
}
