//! The one program in the VM: the kernel starts it as PID 1, and it serves the host over one virtio-serial port.
//!
//! ```text
//! boot     mount what no sandbox changes, load modules, find the port          (before the guest may be parked)
//! agent    the loop: one poll over the port, SIGCHLD and the sessions' descriptors
//! rehearse everything below once, mount the root, set up the network link      (request `Park`: it is to be saved)
//! warm     enter the root, or rehearse again and leave nothing mounted         (request `Warm`: its sandbox comes later)
//! start    become one sandbox: entropy, clock, disks, root, names, confinement (request `Start`, once)
//! exec     prepare a program, spawn it; session pumps its bytes                (request `Exec`, when warm or started)
//! power    end everything, leave clean disks, power off                        (request `PowerOff`)
//! ```
//!
//! Invariant: nothing here grows with what programs do. Every queue is bounded by the protocol's credit, every list by
//! the protocol's number of sessions. A failure of the agent itself is said on the console and ends the VM.

mod agent;
mod announcements;
mod boot;
mod cgroup;
mod confine;
mod console;
mod drain;
mod ending;
mod entropy;
mod exec;
mod identity;
mod link;
mod lookup;
mod mounts;
mod network;
mod os_error;
mod power;
mod reap;
mod rehearsal;
mod root;
mod session;
mod spawn;
mod start;
mod stdio;
mod stopwatch;
mod stream;
mod trust;
mod users;

use crate::agent::{Agent, AgentError};

fn main() {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        return; // run by a rehearsal
    }
    console::end_vm_on_panic();
    let Err(error) = boot::boot().map_err(AgentError::from).and_then(Agent::run);
    console::say(format_args!("fatal: {error}"));
    power::end_vm();
}
