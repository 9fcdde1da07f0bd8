//! The agent's few lines on the kernel console, which the host keeps as the sandbox's log.

use std::fmt;

use crate::power;

/// Write one line; a console that does not take it changes nothing.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let text = format!("matchlock-guest: {line}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
}

/// A panic is a defect of the agent: say it, and end the VM, so that the host sees an end and not a silence.
pub(crate) fn end_vm_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        say(format_args!("panic: {info}"));
        power::end_vm();
    }));
}
