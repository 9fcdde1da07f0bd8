//! What tests share: images made of real layers, and a real registry on loopback.
//!
//! A development dependency only. What needs a program of the distribution says which package has it when the program
//! is missing; nothing here is a stand-in for the real thing.

mod layout;
mod registry;
mod tool;

pub use layout::{Compression, ImageSpec, LayerTar, OciLayout, busybox_layer};
pub use registry::{LoopbackRegistry, Options};
pub use tool::{run, tool};
