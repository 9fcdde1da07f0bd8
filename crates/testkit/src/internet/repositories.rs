//! What package managers and git find on this internet: `https://git.good.test/project.git`, served by git's own
//! http-backend, a Debian repository at `https://deb.good.test` and a Python one at `https://pypi.good.test/simple`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use hyper::{Response, StatusCode, body::Bytes, http::request::Parts};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use super::record;
use crate::{run, tool};

/// The folder of git's repositories, and the files of the others by host and path.
#[derive(Debug)]
pub(super) struct Repositories {
    git: PathBuf,
    files: HashMap<String, (&'static str, Bytes)>,
}

impl Repositories {
    /// Make them below a folder.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let mut repositories = Self { git: folder.join("git"), files: HashMap::new() };
        git(&repositories.git)?;
        repositories.debian(&folder.join("deb"))?;
        repositories.python(&folder.join("pypi"))?;
        Ok(repositories)
    }

    /// A package `hello` that has one file, in a repository without a signature.
    fn debian(&mut self, folder: &Path) -> Result<()> {
        let control = "Package: hello-world\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@good.test>\n\
                       Description: says hello\n";
        fs::create_dir_all(folder.join("hello/DEBIAN"))?;
        fs::create_dir_all(folder.join("hello/usr/share"))?;
        fs::write(folder.join("hello/DEBIAN/control"), control)?;
        fs::write(folder.join("hello/usr/share/hello-world"), "hello from the repository\n")?;
        let package = folder.join("hello.deb");
        let mut dpkg_deb = tool("dpkg-deb", "dpkg")?;
        run(dpkg_deb.args(["--root-owner-group", "--build"]).args([&folder.join("hello"), &package]))?;
        let package = fs::read(package)?;
        let packages = format!("{control}Filename: hello.deb\nSize: {}\nSHA256: {}\n", package.len(), sha256(&package));
        let release = format!("Suite: stable\nSHA256:\n {} {} Packages\n", sha256(packages.as_bytes()), packages.len());
        for (path, content) in [("hello.deb", package), ("Packages", packages.into()), ("Release", release.into())] {
            self.file(&format!("deb.good.test/{path}"), "application/octet-stream", content);
        }
        Ok(())
    }

    /// A package `hello_world` with a module of that name.
    fn python(&mut self, folder: &Path) -> Result<()> {
        let info = folder.join("hello_world-1.0.dist-info");
        fs::create_dir_all(&info)?;
        fs::write(folder.join("hello_world.py"), "text = 'hello from the index'\n")?;
        fs::write(info.join("METADATA"), "Metadata-Version: 2.1\nName: hello-world\nVersion: 1.0\n")?;
        fs::write(info.join("WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")?;
        fs::write(info.join("RECORD"), "")?;
        let wheel = "hello_world-1.0-py3-none-any.whl";
        let mut python = tool("python3", "python3")?;
        python.current_dir(folder).args(["-m", "zipfile", "-c", wheel, "hello_world.py", "hello_world-1.0.dist-info"]);
        run(&mut python)?;
        let page = format!("<!DOCTYPE html><a href=\"/{wheel}\">{wheel}</a>");
        self.file("pypi.good.test/simple/hello-world/", "text/html", page.into());
        self.file(&format!("pypi.good.test/{wheel}"), "application/zip", fs::read(folder.join(wheel))?);
        Ok(())
    }

    fn file(&mut self, place: &str, kind: &'static str, content: Vec<u8>) {
        self.files.insert(place.to_owned(), (kind, content.into()));
    }

    /// The answer to a request, if it is for one of them.
    pub(super) async fn answer(&self, request: &record::Request, parts: &Parts) -> Result<Option<Response<Bytes>>> {
        // apt asks for `/./Packages` where a repository is one folder.
        let path = &parts.uri.path().replace("/./", "/");
        match request.host.as_str() {
            "git.good.test" => self.backend(request, path, parts.uri.query().unwrap_or_default()).await.map(Some),
            host @ ("deb.good.test" | "pypi.good.test") => {
                let response = Response::builder();
                Ok(Some(match self.files.get(&format!("{host}{path}")) {
                    Some((kind, content)) => response.header("content-type", *kind).body(content.clone())?,
                    None => response.status(StatusCode::NOT_FOUND).body(Bytes::new())?,
                }))
            }
            _ => Ok(None),
        }
    }

    /// Let git answer (git-http-backend(1)). Who wants to push has to say who it is.
    async fn backend(&self, request: &record::Request, path: &str, query: &str) -> Result<Response<Bytes>> {
        let pushes = query == "service=git-receive-pack" || path.ends_with("/git-receive-pack");
        if pushes && request.header("authorization").is_none() {
            let response = Response::builder().status(StatusCode::UNAUTHORIZED);
            return Ok(response.header("www-authenticate", "Basic realm=\"git\"").body(Bytes::new())?);
        }
        let header = |name| request.header(name).unwrap_or_default();
        let mut backend = tokio::process::Command::from(tool("git", "git")?);
        backend.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        backend.env("GIT_PROJECT_ROOT", &self.git).env("GIT_HTTP_EXPORT_ALL", "1").env("HOME", &self.git);
        backend.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", &request.method);
        backend.env("CONTENT_TYPE", header("content-type")).env("CONTENT_LENGTH", request.body.len().to_string());
        backend.env("HTTP_CONTENT_ENCODING", header("content-encoding")).env("REMOTE_USER", "somebody");
        backend.env("GIT_PROTOCOL", header("git-protocol"));
        let mut child = backend.spawn()?;
        let mut stdin = child.stdin.take().context("piped")?;
        let body = request.body.clone();
        let feed = tokio::spawn(async move { stdin.write_all(&body).await });
        let output = child.wait_with_output().await?;
        feed.await??;
        let end = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").context("a head from git")?;
        let mut response = Response::builder();
        for line in std::str::from_utf8(&output.stdout[..end])?.lines() {
            let (name, value) = line.split_once(": ").context("a header from git")?;
            response = match name {
                "Status" => response.status(value.split(' ').next().context("a status")?),
                _ => response.header(name, value),
            };
        }
        Ok(response.body(Bytes::copy_from_slice(&output.stdout[end + 4..]))?)
    }
}

/// A repository with one commit, which may be pushed to.
fn git(folder: &Path) -> Result<()> {
    let git = |arguments: &[&str], inside: &Path| {
        let mut git = tool("git", "git")?;
        git.args(["-c", "user.name=nobody", "-c", "user.email=nobody@good.test", "-c", "init.defaultBranch=main"]);
        run(git.args(arguments).current_dir(inside).env("HOME", folder)).map(drop)
    };
    fs::create_dir_all(folder.join("work"))?;
    git(&["init", "--quiet"], &folder.join("work"))?;
    fs::write(folder.join("work/README"), "hello from git\n")?;
    git(&["add", "README"], &folder.join("work"))?;
    git(&["commit", "--quiet", "-m", "first"], &folder.join("work"))?;
    git(&["clone", "--quiet", "--bare", "work", "project.git"], folder)?;
    git(&["config", "http.receivepack", "true"], &folder.join("project.git"))
}

fn sha256(content: &[u8]) -> String {
    matchlock_model::Digest::from_bytes(Sha256::digest(content).into()).hex()
}
