//! The store on real files, with several processes, crashes and damage.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a process of a test speaks to the test")]

mod damage;
mod images;
mod leases;
mod reconcile;
mod sandboxes;
mod support;
mod undo;
