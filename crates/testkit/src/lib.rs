//! What tests share: a home for each test and the program under test in it, images made of real layers, a real
//! registry on loopback, and an internet in a namespace.
//!
//! A development dependency only. What needs a program of the distribution says which package has it when the program
//! is missing; nothing here is a stand-in for the real thing.

mod home;
pub mod images;
pub mod internet;
mod layout;
mod leaks;
mod matchlock;
pub mod namespace;
mod registry;
mod target;
mod terminal;
mod tool;

pub use home::Home;
pub use layout::{Compression, ImageSpec, LayerTar, OciLayout, busybox_layer};
pub use matchlock::{Matchlock, Output, Running};
pub use registry::{LoopbackRegistry, Options};
pub use target::matchlock_binary;
pub use terminal::Terminal;
pub use tool::{run, tool};
