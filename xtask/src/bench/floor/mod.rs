//! The floor: the least time in which a saved guest can be continued until a program of the image's has ended in it.
//!
//! A harness of its own, which shares with the product what decides about speed on a machine and nothing else: QEMU, the
//! kernel and its modules, the processor's options. Its agent (`agent.c`) boots, is saved waiting for an order, and does
//! after it only what running one program needs.

mod machine;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use matchlock_sandbox::{
    GuestFiles, Host,
    vmm::{Vmm as _, initramfs, kernel},
};
use matchlock_testkit::{run, tool};

use machine::{Guest, Machine};

/// The program that is run from the image's disk. Each measure of the product runs the same.
const PROGRAM: &str = "/bin/true";

/// Size of the disk that the guest is saved with: no image is larger.
const PLACEHOLDER: u64 = 1 << 40;

/// A saved guest.
pub(crate) struct Floor {
    guest: Guest,
    image: PathBuf,
}

impl Floor {
    /// Boot a guest and save it in the folder `home/floor`. `image` is the EROFS file that restored ones get.
    pub(super) fn new(root: &Path, home: &Path, host: &Host, files: &GuestFiles, image: PathBuf) -> Result<Self> {
        let folder = home.join("floor");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let agent = folder.join("agent");
        let mut compiler = tool("gcc", "gcc")?;
        compiler.args(["-O2", "-static", "-Wall", "-Wextra", "-Werror"]).arg(format!("-DPROGRAM=\"{PROGRAM}\""));
        run(compiler.arg("-o").arg(&agent).arg(root.join("xtask/src/bench/floor/agent.c")))?;
        let transport = files.vmm.transport();
        let modules = kernel::resolve(None, &host.cache.kernels(), transport)?.modules(transport)?;
        let initramfs = initramfs::assemble(&folder.join("initramfs"), &fs::read(&agent)?, &modules)?;
        let placeholder = folder.join("placeholder");
        File::create(&placeholder)?.set_len(PLACEHOLDER)?;

        let guest = Guest {
            kernel: files.kernel.clone(),
            initramfs,
            memory: folder.join("memory"),
            state: folder.join("state"),
            console: folder.join("console"),
            tsc_khz: files.vmm.tsc_khz(),
        };
        let mut machine = Machine::boot(&guest, &placeholder)?;
        let said = machine.hear()?;
        ensure!(said == "ready", "the floor's guest said {said:?}");
        machine.save(&File::create(&guest.state)?)?;
        Ok(Self { guest, image })
    }

    /// From the start of QEMU until the program has ended.
    pub(super) fn run(&self) -> Result<Duration> {
        let begin = Instant::now();
        let mut machine = Machine::restore(&self.guest, &self.image)?;
        machine.tell("go")?;
        let said = machine.hear().context("after a restore")?;
        let took = begin.elapsed();
        ensure!(said == "ran 0", "the floor's guest said {said:?}");
        Ok(took)
    }
}
