//! Taking secrets out of what the kernel shows of this process: its command line (`ps`) and its environment, which every
//! program that it starts would inherit.
//!
//! Both are memory of the process, and it may write there (`proc_pid_cmdline(5)`, `proc_pid_environ(5)`): a value is
//! overwritten where it stands, so that whoever reads it later, this program and its children included, finds none.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
};

use matchlock_sandbox::network::keep_memory_private;

use crate::parse::{SecretWord, Source};

/// What is put in the place of each byte of an argument.
const BLANK: u8 = b'*';

/// Let nobody else read this process's memory, and overwrite the values in `words`, arguments of this process, and those of the
/// variables that are meant by words. To be called when all of these are read, and before anything is waited for.
pub(crate) fn secrets(words: &[SecretWord]) -> io::Result<()> {
    if words.is_empty() {
        return keep_memory_private();
    }
    let (arguments, environment) = places()?;
    // Opened while this process may still write below `/proc/self`.
    let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
    keep_memory_private()?;
    let variables: Vec<_> = words.iter().filter_map(variable).collect();
    overwrite(&memory, arguments, BLANK, |text| values_in_arguments(text, words))?;
    overwrite(&memory, environment, 0, |text| values_in_environment(text, &variables))
}

fn variable(word: &SecretWord) -> Option<&str> {
    match word.source() {
        Some(Source::Variable(name)) => Some(name),
        _ => None,
    }
}

/// Where arguments and environment are (`proc_pid_stat(5)`, fields 48 to 51).
fn places() -> io::Result<(Range<u64>, Range<u64>)> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The program's name, in parentheses, may have anything in it; the third field follows.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_ascii_whitespace().skip(45);
    let fields: Vec<u64> = fields.take(4).map_while(|field| field.parse().ok()).collect();
    match fields[..] {
        [a, b, c, d] if a != 0 && a <= b && c != 0 && c <= d => Ok((a..b, c..d)),
        _ => Err(io::Error::other("/proc/self/stat does not say where arguments are")),
    }
}

fn overwrite(memory: &File, place: Range<u64>, blank: u8, find: impl Fn(&[u8]) -> Vec<Range<usize>>) -> io::Result<()> {
    let length = usize::try_from(place.end - place.start).map_err(io::Error::other)?;
    let mut text = zeroize::Zeroizing::new(vec![0; length]);
    memory.read_exact_at(&mut text, place.start)?;
    for found in find(&text) {
        memory.write_all_at(&vec![blank; found.len()], place.start + found.start as u64)?;
    }
    Ok(())
}

/// The strings in `text`, each with where it begins.
fn strings(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    text.split(|byte| *byte == 0).map(move |string| {
        let begins = at;
        at += string.len() + 1;
        (begins, string)
    })
}

/// Where the values of `words` stand: in what follows `--secret`, before the guest's own command.
fn values_in_arguments(text: &[u8], words: &[SecretWord]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut follows = false;
    for (at, string) in strings(text).take_while(|(_, string)| *string != b"--") {
        let flag = string.strip_prefix(b"--secret=").map(|word| (at + b"--secret=".len(), word));
        let candidate = if follows { Some((at, string)) } else { flag };
        follows = string == b"--secret";
        let Some((at, candidate)) = candidate else { continue };
        let word = words.iter().find(|word| str::from_utf8(candidate).is_ok_and(|text| word.is(text)));
        if let Some(Source::Inline(value)) = word.and_then(SecretWord::source) {
            let name = candidate.iter().position(|byte| *byte == b'=').map_or(0, |at| at + 1);
            found.push(at + name..at + name + value.len());
        }
    }
    found
}

/// Where the values of `variables` stand.
fn values_in_environment(text: &[u8], variables: &[&str]) -> Vec<Range<usize>> {
    let value = |(at, string): (usize, &[u8])| {
        let name = string.iter().position(|byte| *byte == b'=')?;
        let wanted = variables.iter().any(|variable| variable.as_bytes() == &string[..name]);
        wanted.then_some(at + name + 1..at + string.len())
    };
    strings(text).filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blanked(text: &str, find: impl Fn(&[u8]) -> Vec<Range<usize>>) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for range in find(text.as_bytes()) {
            bytes[range].fill(BLANK);
        }
        String::from_utf8(bytes).unwrap().replace('\0', " ")
    }

    #[test]
    fn values_are_found_where_they_stand_and_nowhere_else() {
        let words = ["A=hunter2@x.com", "B=s@c=r@y.com", "C@z.com"].map(SecretWord::from);
        let line = "matchlock\0run\0--secret\0A=hunter2@x.com\0--secret=B=s@c=r@y.com\0--secret=C@z.com\0-e\0A=hunter2@x.com\0\
                    --\0--secret\0A=hunter2@x.com\0";
        assert_eq!(
            blanked(line, |text| values_in_arguments(text, &words)),
            "matchlock run --secret A=*******@x.com --secret=B=*****@y.com --secret=C@z.com -e A=hunter2@x.com -- \
             --secret A=hunter2@x.com "
        );
        assert_eq!(
            blanked("PATH=/bin\0C=hunter2\0CC=x\0C=again\0", |text| values_in_environment(text, &["C"])),
            "PATH=/bin C=******* CC=x C=***** "
        );
    }

    #[test]
    fn this_process_finds_its_own_arguments() {
        let (arguments, environment) = places().unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let mut text = vec![0; usize::try_from(arguments.end - arguments.start).unwrap()];
        memory.read_exact_at(&mut text, arguments.start).unwrap();
        let first = std::env::args().next().unwrap();
        assert_eq!(strings(&text).next().unwrap().1, first.as_bytes());
        assert!(environment.start >= arguments.end);
    }
}
