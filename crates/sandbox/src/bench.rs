//! What measurements of sandboxes have in common: percentiles, and the memory that one takes up.
//!
//! Called by `matchlock bench` and by the project's own benchmarks, so that both mean the same by their numbers.

use std::{fs, io};

/// Samples of one quantity.
#[derive(Clone, Debug)]
pub struct Samples<T>(Vec<T>);

impl<T: Ord + Copy> Samples<T> {
    /// Of these values; `None` if there are none.
    #[must_use]
    pub fn new(mut values: Vec<T>) -> Option<Self> {
        values.sort_unstable();
        (!values.is_empty()).then_some(Self(values))
    }

    /// The smallest value that at least `percent` of them do not exceed (the nearest-rank method).
    #[must_use]
    pub fn percentile(&self, percent: usize) -> T {
        self.0[(self.0.len() * percent).div_ceil(100).clamp(1, self.0.len()) - 1]
    }
}

/// Bytes of memory that the processes `pids` and those that they have started take up, each page that is shared counted in
/// proportion (`Pss` of `proc_pid_smaps(5)`). Of a process that keeps its memory private, which shows its maps to root only, the pages
/// count that are no file's (`proc_pid_status(5)`).
///
/// # Errors
/// `/proc` cannot be read, or a process is gone.
pub fn memory_of(pids: &[u32]) -> io::Result<u64> {
    let mut family = pids.to_vec();
    let parents = parents()?;
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        let children = parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child);
        let more: Vec<_> = children.filter(|child| !family.contains(child)).collect();
        family.extend(more);
        next += 1;
    }
    family.into_iter().map(size).sum()
}

/// Every process with its parent.
fn parents() -> io::Result<Vec<(u32, u32)>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // One that has ended meanwhile has no parent any more.
    Ok(pids.filter_map(|pid| Some((pid, parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect())
}

/// The parent in a line of `proc_pid_stat(5)`: the second field after the name, in which anything may stand.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn size(pid: u32) -> io::Result<u64> {
    match sum_in(pid, "smaps_rollup", &["Pss"]) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => sum_in(pid, "status", &["RssAnon", "RssShmem"]),
        size => size,
    }
}

/// Some of the quantities that a process has in a file, together.
fn sum_in(pid: u32, file: &str, names: &[&str]) -> io::Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
    let lacks = |name| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: no {name}"));
    names.iter().map(|name| quantity(&text, name).ok_or_else(|| lacks(name))).sum()
}

/// Bytes, in a line such as `Pss:    1234 kB`.
fn quantity(text: &str, name: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.strip_suffix(" kB"))?;
    number.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples = Samples::new((1..=200).rev().collect()).unwrap();
        assert_eq!([1, 50, 90, 99, 100].map(|percent| samples.percentile(percent)), [2, 100, 180, 198, 200]);
        let one = Samples::new(vec![7]).unwrap();
        assert_eq!([0, 50, 100].map(|percent| one.percentile(percent)), [7, 7, 7]);
        assert!(Samples::<u64>::new(Vec::new()).is_none());
    }

    #[test]
    fn a_name_does_not_hide_the_parent() {
        assert_eq!(parent_in("12 (a) R 3 (b) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent_in("12 (cat"), None);
    }

    #[test]
    fn quantities_are_found_by_their_whole_name() {
        let text = "Pss_Anon:   9 kB\nPss:    12 kB\nRssAnon:\t     340 kB\nThreads:\t1\n";
        assert_eq!(
            ["Pss", "RssAnon", "Threads", "Rss"].map(|name| quantity(text, name)),
            [Some(12 << 10), Some(340 << 10), None, None]
        );
        let own = sum_in(std::process::id(), "status", &["RssAnon", "RssShmem"]).unwrap();
        assert!((1..memory_of(&[std::process::id()]).unwrap() * 2).contains(&own));
    }

    #[test]
    fn memory_is_that_of_the_process_and_of_its_children() {
        let alone = memory_of(&[std::process::id()]).unwrap();
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let of_child = memory_of(&[child.id()]).unwrap();
        assert!(alone > 0 && of_child > 0);
        assert!(parents().unwrap().contains(&(child.id(), std::process::id())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(memory_of(&[child.id()]).is_err());
    }
}
