//! From the first word of a command to the file to execute, as execvp(3) does it, but before there is a process: so that
//! a missing program is told apart from one that cannot be executed.

use rustix::{
    fs::{CWD, FileType, Mode, Stat, statat},
    io::Errno,
};
use thiserror::Error;

/// Why there is nothing to execute.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum LookupError {
    #[error("exec {0:?}: not found in $PATH")]
    NotInPath(String),
    #[error("exec {0:?}: no such file")]
    NoFile(String),
    #[error("exec {0:?}: is a folder")]
    Folder(String),
    #[error("exec {0:?}: permission denied: it is not marked executable")]
    NotExecutable(String),
}

/// The path of `program`: itself if it holds a slash, or the first executable file of that name in `search` (`$PATH`).
/// Relative ones are taken from `cwd`, an absolute path.
pub(crate) fn find(program: &str, cwd: &str, search: &str) -> Result<String, LookupError> {
    if program.contains('/') {
        let path = absolute(program, cwd);
        return match inspect(&path) {
            Found::Executable => Ok(path),
            Found::Folder => Err(LookupError::Folder(program.to_owned())),
            Found::NotExecutable => Err(LookupError::NotExecutable(program.to_owned())),
            Found::Nothing => Err(LookupError::NoFile(program.to_owned())),
        };
    }
    let mut answer = LookupError::NotInPath(program.to_owned());
    for folder in search.split(':').filter(|_| !program.is_empty() && !search.is_empty()) {
        let path = absolute(&format!("{}/{program}", if folder.is_empty() { "." } else { folder }), cwd);
        match inspect(&path) {
            Found::Executable => return Ok(path),
            Found::NotExecutable => answer = LookupError::NotExecutable(path),
            Found::Folder | Found::Nothing => {}
        }
    }
    Err(answer)
}

enum Found {
    Executable,
    NotExecutable,
    Folder,
    Nothing,
}

fn absolute(path: &str, cwd: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", cwd.trim_end_matches('/')) }
}

fn inspect(path: &str) -> Found {
    match stat(path) {
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Folder,
            FileType::RegularFile if stat.st_mode & 0o111 != 0 => Found::Executable,
            _ => Found::NotExecutable,
        },
        Err(Errno::ACCESS) => Found::NotExecutable,
        Err(_) => Found::Nothing,
    }
}

fn stat(path: &str) -> Result<Stat, Errno> {
    statat(CWD, path, rustix::fs::AtFlags::empty())
}

/// Is `path` a folder?
pub(crate) fn is_folder(path: &str) -> bool {
    stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Make the folder `path`, absolute, and all that is missing above it.
pub(crate) fn make_folders(path: &str) -> Result<(), Errno> {
    for (end, _) in path.match_indices('/').skip(1).chain([(path.len(), "")]) {
        crate::mounts::existing(rustix::fs::mkdirat(CWD, &path[..end], Mode::from_raw_mode(0o755)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for (path, mode) in [("a/tool", 0o644), ("b/tool", 0o755), ("b/plain", 0o644), ("work/here", 0o755)] {
                let path = place.path(path);
                fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
                fs::write(&path, "").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            fs::create_dir(place.path("a/folder")).unwrap();
            std::os::unix::fs::symlink("nowhere", place.path("a/dangling")).unwrap();
            place
        }

        fn path(&self, below: &str) -> String {
            format!("{}/{below}", self.0.path().to_str().unwrap())
        }

        /// The answer to a search in the folders `a` and `b` from `work`, with this place's own path left out.
        fn find(&self, program: &str) -> String {
            let search = format!("{}:{}", self.path("a"), self.path("b"));
            let here = self.0.path().to_str().unwrap();
            let answer = find(&program.replace("HERE", here), &self.path("work"), &search);
            answer.unwrap_or_else(|error| error.to_string()).replace(here, "HERE")
        }
    }

    #[test]
    fn the_first_executable_file_in_path_wins() {
        assert_eq!(Place::new().find("tool"), "HERE/b/tool");
    }

    #[test]
    fn a_path_is_taken_as_it_is_and_from_the_working_folder() {
        let place = Place::new();
        assert_eq!(place.find("./here"), "HERE/work/./here");
        assert_eq!(place.find("../b/tool"), "HERE/work/../b/tool");
        assert_eq!(place.find("HERE/b/tool"), "HERE/b/tool");
    }

    #[test]
    fn every_failure_says_what_is_wrong() {
        let place = Place::new();
        assert_eq!(place.find("foo"), r#"exec "foo": not found in $PATH"#);
        assert_eq!(place.find("folder"), r#"exec "folder": not found in $PATH"#);
        assert_eq!(place.find("dangling"), r#"exec "dangling": not found in $PATH"#);
        assert_eq!(place.find(""), r#"exec "": not found in $PATH"#);
        assert_eq!(place.find("./foo"), r#"exec "./foo": no such file"#);
        assert_eq!(place.find("../a/folder"), r#"exec "../a/folder": is a folder"#);
        assert_eq!(place.find("plain"), r#"exec "HERE/b/plain": permission denied: it is not marked executable"#);
        assert_eq!(place.find("../b/plain"), r#"exec "../b/plain": permission denied: it is not marked executable"#);
    }

    #[test]
    fn an_empty_entry_of_path_is_the_working_folder_and_an_empty_path_is_none() {
        let place = Place::new();
        let cwd = place.path("work");
        assert_eq!(find("here", &cwd, ":/nowhere"), Ok(format!("{cwd}/./here")));
        assert_eq!(find("here", &cwd, ""), Err(LookupError::NotInPath("here".to_owned())));
    }

    #[test]
    fn folders_are_made_down_to_the_last() {
        let place = Place::new();
        let path = place.path("work/x/y/z");
        make_folders(&path).unwrap();
        make_folders(&path).unwrap();
        assert!(is_folder(&path));
        assert_eq!(make_folders(&place.path("b/tool/x")), Err(Errno::NOTDIR));
    }
}
