//! The documents of an archive: `manifest.json`, `index.json`, manifests and configurations.
//!
//! The input is cut at 0xff bytes into documents, which become the members of an otherwise sound tar: the first
//! `manifest.json`, the second `index.json` (unless empty), all of them also blobs named by their digests. `$3` in a
//! document is the digest of document 3, counted from 0, if that comes later: what the fuzzer cannot compute itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

/// Most documents of one input.
const MAX_DOCUMENTS: usize = 8;

fuzz_target!(|data: &[u8]| {
    let mut documents: Vec<Vec<u8>> =
        data.split(|&byte| byte == 0xff).take(MAX_DOCUMENTS).map(<[u8]>::to_vec).collect();
    let mut names = vec![String::new(); documents.len()];
    for number in (0..documents.len()).rev() {
        for (later, name) in names.iter().enumerate().skip(number + 1) {
            documents[number] = replace(&documents[number], later, name);
        }
        names[number] = Sha256::digest(&documents[number]).iter().map(|byte| format!("{byte:02x}")).collect();
    }
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).expect("the name is short");
    };
    for (number, (document, name)) in documents.iter().zip(&names).enumerate() {
        match ["manifest.json", "index.json"].get(number) {
            Some(fixed) if !document.is_empty() => add(fixed, document),
            _ => {}
        }
        add(&format!("blobs/sha256/{name}"), document);
    }
    let tar = tar.into_inner().expect("it is in memory");
    matchlock_image::fuzz_archive(&tar, &std::env::temp_dir());
});

/// `document` with `$<number>` replaced by `name`.
fn replace(document: &[u8], number: usize, name: &str) -> Vec<u8> {
    let placeholder = [b'$', b'0' + number as u8];
    let mut out = Vec::new();
    let mut rest = document;
    while let Some(at) = rest.windows(2).position(|pair| pair == placeholder) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(name.as_bytes());
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    out
}
