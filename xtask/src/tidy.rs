//! Rules of the house that neither rustc nor clippy knows. Runs as a test, too.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// What each crate may depend on, in reading order (`ARCHITECTURE.md`). Siblings never import siblings; only `sandbox`
/// composes.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &["model"]),
    ("netlink", &[]),
    ("guest", &["model", "wire", "netlink"]),
    ("store", &["model", "netlink"]),
    ("image", &["model", "store"]),
    ("vmm", &["model", "wire"]),
    ("net", &["model", "netlink"]),
    ("sandbox", &["model", "wire", "store", "image", "vmm", "net"]),
    ("cli", &["model", "sandbox"]),
];

/// Lines after which a file is to be split: look hard well before.
const MAX_LINES: usize = 500;

/// Check everything; the error lists all that is wrong.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    layers(root, &mut wrong)?;
    let sources = files(root, &["crates", "tests", "xtask", "fuzz"], "rs")?;
    ensure!(!sources.is_empty(), "no sources found below {}", root.display());
    for path in &sources {
        source(root, path, &mut wrong)?;
    }
    for path in files(root, &["."], "md")? {
        links(&path, &mut wrong)?;
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

fn layers(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).context("read cargo metadata")?;
    let allowed: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let name = |value: &serde_json::Value| {
        value["name"].as_str().and_then(|name| name.strip_prefix("matchlock-")).map(ToOwned::to_owned)
    };
    let mut seen = 0;
    for package in metadata["packages"].as_array().context("packages in cargo metadata")? {
        let Some(crate_name) = name(package) else { continue };
        let Some(allowed) = allowed.get(crate_name.as_str()) else { continue };
        seen += 1;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let shipped = dependency["kind"].is_null();
            if let Some(used) = name(dependency).filter(|used| shipped && !allowed.contains(&used.as_str())) {
                wrong.push(format!("crates/{crate_name} depends on {used}, which its layer does not allow"));
            }
        }
    }
    ensure!(seen == LAYERS.len(), "{seen} of {} layered crates found", LAYERS.len());
    Ok(())
}

fn source(root: &Path, path: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
    if !text.starts_with("//!") && !text.starts_with("#!") {
        wrong.push(format!("{shown}: does not begin with what the module is (//!)"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        wrong.push(format!("{shown}: {lines} lines; split it (bound {MAX_LINES})"));
    }
    let library = shown.starts_with("crates/") && !shown.starts_with("crates/cli/") && shown.contains("/src/");
    let library = library && !shown.starts_with("crates/testkit/");
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        // Looking a program up in PATH is what starting it by name does, too.
        let reads = line.contains("env::var(") || line.contains("env::var_os(") && !line.contains("(\"PATH\")");
        if library && reads {
            wrong.push(format!("{shown}:{}: only cli::env reads the environment", number + 1));
        }
    }
    Ok(())
}

/// Relative links of a document must lead somewhere.
fn links(path: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target)) {
        let file = target.split('#').next().unwrap_or_default();
        if file.is_empty() || target.contains("://") {
            continue;
        }
        if !path.parent().is_some_and(|folder| folder.join(file).exists()) {
            wrong.push(format!("{}: link to {target} leads nowhere", path.display()));
        }
    }
    Ok(())
}

fn files(root: &Path, folders: &[&str], extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open: Vec<_> = folders.iter().map(|folder| root.join(folder)).filter(|folder| folder.is_dir()).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && !(name.starts_with('.') && name != "." && name != ".ci") {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn what_is_untidy_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("crates/store/src/a.rs");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("fn a() {{ std::env::var(\"X\"); }}\n{}", "//\n".repeat(MAX_LINES))).unwrap();
        let mut wrong = Vec::new();
        source(folder.path(), &file, &mut wrong).unwrap();
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        let page = folder.path().join("a.md");
        fs::write(&page, "[there](a.md) [gone](b.md)").unwrap();
        links(&page, &mut wrong).unwrap();
        assert_eq!(wrong.len(), 4, "{wrong:?}");
    }
}
