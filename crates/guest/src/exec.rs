//! From a request to run a program to a running one: who, where, with which environment and streams.
//!
//! Called by [`crate::agent`]. What can be found wrong before there is a process is found here, in the order in which a
//! user would look for it: user, working folder, program.

use std::{ffi::CString, io::Read};

use matchlock_wire::{Exec, Failure, FailureKind};
use rustix::{
    fs::{Gid, Mode, OFlags, Uid, open, stat},
    io::Errno,
    process::Pid,
};

use crate::{
    lookup::{self, LookupError},
    os_error::reason,
    spawn::{Program, Spawner, Step},
    stdio::{AgentEnds, open_streams},
    users::{self, Account},
};

/// The agent's own environment, below what the request sets; `HOME` is the user's.
const PATH: (&str, &str) = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
const TERM: (&str, &str) = ("TERM", "linux");

/// The largest user database that is read.
const MAX_USER_FILE: u64 = 4 * 1024 * 1024;

/// Start what `request` asks for.
pub(crate) fn start(request: &Exec, spawner: &mut Spawner) -> Result<(Pid, AgentEnds), Failure> {
    let account = find_account(&request.user)?;
    let cwd = if request.cwd.is_empty() { "/" } else { &request.cwd };
    find_folder(cwd, request.create_cwd)?;
    let env = environment(&request.env, account.home.as_deref());
    let name = request.argv.first().ok_or_else(|| internal("no program was given".to_owned()))?;
    let not_text = || not_found(format!("exec \"{}\": a program's name has to be UTF-8", name.escape_ascii()));
    let name = str::from_utf8(name).map_err(|_| not_text())?;
    let search = env.iter().find(|(name, _)| *name == PATH.0).map_or("", |(_, value)| value);
    let path = lookup::find(name, cwd, search).map_err(|error| not_startable(&error))?;
    let streams = open_streams(request.stdio, account.uid)
        .map_err(|errno| internal(format!("open the program's streams: {}", reason(errno))))?;
    let program = Program {
        path: c_string(path)?,
        argv: request.argv.iter().map(|word| c_string(word.as_slice())).collect::<Result<_, _>>()?,
        env: env.iter().map(|(name, value)| c_string(format!("{name}={value}"))).collect::<Result<_, _>>()?,
        cwd: c_string(cwd)?,
        uid: Uid::from_raw(account.uid),
        gid: Gid::from_raw(account.gid),
        groups: account.groups.into_iter().map(Gid::from_raw).collect(),
        streams: streams.program.raw(),
        terminal: streams.program.is_terminal(),
    };
    let pid = spawner.spawn(&program).map_err(|(step, errno)| spawn_failure(name, cwd, step, errno))?;
    Ok((pid, streams.agent))
}

/// The environment with each name once; the last setting of a name wins.
fn environment<'a>(request: &'a [(String, String)], home: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mut env = vec![PATH, ("HOME", home.unwrap_or("/")), TERM];
    for (name, value) in request {
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => env.push((name, value)),
        }
    }
    env
}

fn find_account(user: &str) -> Result<Account, Failure> {
    let passwd = read_user_file("/etc/passwd")?;
    let group = if user.is_empty() { Vec::new() } else { read_user_file("/etc/group")? };
    users::account(user, &passwd, &group).map_err(|error| not_found(error.to_string()))
}

/// A user database of the image, empty if there is none.
fn read_user_file(path: &str) -> Result<Vec<u8>, Failure> {
    let file = match open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(internal(format!("read {path}: {}", reason(errno)))),
    };
    let mut bytes = Vec::new();
    match file.take(MAX_USER_FILE + 1).read_to_end(&mut bytes) {
        Ok(read) if read as u64 <= MAX_USER_FILE => Ok(bytes),
        Ok(_) => Err(internal(format!("{path} is larger than {MAX_USER_FILE} bytes"))),
        Err(error) => Err(internal(format!("read {path}: {error}"))),
    }
}

fn find_folder(cwd: &str, create: bool) -> Result<(), Failure> {
    if !cwd.starts_with('/') {
        return Err(not_found(format!("working directory {cwd:?} is not an absolute path")));
    }
    if cwd == "/" || lookup::is_folder(cwd) {
        return Ok(());
    }
    if create {
        return lookup::make_folders(cwd)
            .map_err(|errno| internal(format!("create working directory {cwd:?}: {}", reason(errno))));
    }
    let what = if stat(cwd).is_ok() { "is not a folder" } else { "does not exist" };
    Err(not_found(format!("working directory {cwd:?} {what}")))
}

fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| internal("arguments, environment and paths cannot hold a NUL character".to_owned()))
}

fn not_startable(error: &LookupError) -> Failure {
    let kind = match error {
        LookupError::NotInPath(_) | LookupError::NoFile(_) => FailureKind::NotFound,
        LookupError::Folder(_) | LookupError::NotExecutable(_) => FailureKind::NotExecutable,
    };
    Failure { kind, message: error.to_string() }
}

fn spawn_failure(name: &str, cwd: &str, step: Step, errno: Errno) -> Failure {
    let cause = reason(errno);
    match (step, errno) {
        (Step::Fork, _) => internal(format!("start a process: {cause}")),
        (Step::Streams, _) => internal(format!("connect the program's streams: {cause}")),
        (Step::Folder, _) => not_found(format!("working directory {cwd:?}: {cause}")),
        (Step::User, _) => internal(format!("change to the program's user: {cause}")),
        (Step::Exec, Errno::NOENT | Errno::NOTDIR) => {
            not_found(format!("exec {name:?}: the interpreter or loader that it asks for does not exist"))
        }
        (Step::Exec, Errno::NOMEM | Errno::AGAIN | Errno::IO) => internal(format!("exec {name:?}: {cause}")),
        (Step::Exec, _) => Failure { kind: FailureKind::NotExecutable, message: format!("exec {name:?}: {cause}") },
    }
}

fn not_found(message: String) -> Failure {
    Failure { kind: FailureKind::NotFound, message }
}

fn internal(message: String) -> Failure {
    Failure { kind: FailureKind::Internal, message }
}
